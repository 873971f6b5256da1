"""What is missing in the flows that were shown, and how far back the agents know them. Pure."""

from collections.abc import Iterator

from netpolq.flow_view.cells import moment
from netpolq.logs import one_line
from netpolq.supervisor.flows_report import FlowsHead

_MAX_NAMED = 5


class Summary:
    """Collects the heads of answers, the newest of each agent. `missed`: increments that were shown to no follower in time."""

    def __init__(self) -> None:
        self._heads: dict[str, FlowsHead] = {}
        self.missed = 0

    def add(self, origin: str, head: FlowsHead) -> None:
        """Note the head of an answer. `origin`: of which agent."""
        self._heads[origin] = head
        self.missed += head.missed

    @property
    def agents(self) -> int:
        """Number of agents that have answered."""
        return len(self._heads)

    def lines(self, since_s: float | None, now_s: float) -> Iterator[str]:
        """A sentence for each thing that is missing. `since_s`: Unix time from which flows were asked for; None: from the start on."""
        heads = self._heads.values()
        if unrecorded := sum(head.unrecorded for head in heads):
            yield f"{unrecorded} connections are in no record: too many different flows in one window (see --flow-records)"
        if lost := sum(head.lost for head in heads):
            yield f"{lost} connections are in no record: workers had no room to report them"
        if damaged := sum(head.damaged for head in heads):
            yield f"{damaged} reads of what workers had recorded failed: their connections are in no record (see the log of the agent)"
        if missed := sum(head.traffic_missed for head in heads):
            yield f"{missed} connections have ended without their packets and bytes being counted: too many ended at once"
        if dropped := sum(head.dropped_early for head in heads):
            yield f"{dropped} records were dropped before their hour was over (see --flow-records of `netpolq run`)"
        if self.missed:
            yield f"{self.missed} increments came too fast and are not shown; ask again without --follow for their sums"
        if since_s is not None:
            yield from self._short_histories(since_s, now_s)

    def _short_histories(self, since_s: float, now_s: float) -> Iterator[str]:
        late = sorted((head.node, head.started_s) for head in self._heads.values() if head.started_s > since_s)
        for node, started_s in late[:_MAX_NAMED]:
            yield f"the agent on {one_line(node)} knows flows only since {moment(started_s, now_s)}, when it started"
        if len(late) > _MAX_NAMED:
            yield f"{len(late) - _MAX_NAMED} more agents have started meanwhile"
