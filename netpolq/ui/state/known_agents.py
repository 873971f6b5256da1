"""All that agents have told: flows and the state of each node. Pure; what reads agents calls it, and answers are made from it."""

from collections.abc import Iterable

from netpolq.flows.record import FlowRecord
from netpolq.supervisor.flows_report import FlowsHead
from netpolq.supervisor.status import Status
from netpolq.ui.state.history import History
from netpolq.ui.state.minutes import minute_of
from netpolq.ui.state.node_states import NodeState


class KnownAgents:
    """Takes what agents tell. Nodes have names, or the address of an agent as long as its node is not known.

    `version` changes with the state of a node; flows have the version of `history`. `started_s`: from when on this process has read.
    `problem`: why agents cannot be found, or empty.
    """

    def __init__(self, now_s: float) -> None:
        self.history = History()
        self.nodes: dict[str, NodeState] = {}
        self.version = 0
        self.started_s = now_s
        self.problem = ""
        self._minute = minute_of(now_s)

    def found(self, node: str, pod: str = "") -> None:
        """Note that there is an agent."""
        state = self.nodes.get(node)
        if state is None:
            self.nodes[node] = NodeState(node, pod, "it has not answered yet")
        elif state.pod != pod:
            state.pod = pod
        else:
            return
        self.version += 1

    def renamed(self, before: str, node: str, pod: str = "") -> None:
        """Note the name of the node of an agent that was known by its address."""
        if self.nodes.pop(before, None) is not None:
            self.version += 1
        self.found(node, pod)

    def gone(self, nodes: Iterable[str]) -> None:
        """Forget agents that no longer exist. What they have told of flows stays for its hour."""
        for node in nodes:
            if self.nodes.pop(node, None) is not None:
                self.version += 1

    def failed(self, node: str, problem: str, now_s: float) -> None:
        """Note why an agent cannot be read."""
        state = self.nodes.setdefault(node, NodeState(node))
        if state.is_reachable or state.problem != problem:
            state.is_reachable, state.problem = False, problem
            state.gap(now_s)
            self.version += 1

    def head(self, node: str, head: FlowsHead) -> None:
        """Take the first line of an answer about flows: the agent can be read."""
        state = self.nodes.setdefault(node, NodeState(node))
        state.missed += head.missed
        if not state.is_reachable or state.problem:
            state.is_reachable, state.problem = True, ""
            self.version += 1
        state.head = head

    def flow(self, record: FlowRecord, now_s: float) -> None:
        """Count a record."""
        self.history.add(record, now_s)

    def status(self, node: str, status: Status, now_s: float) -> None:
        """Take a status document."""
        state = self.nodes.setdefault(node, NodeState(node))
        state.read(status, self.history.connections.get(node, 0), now_s)
        self.version += 1

    def status_failed(self, node: str, problem: str) -> None:
        """Note why there is no status document, where flows can be read."""
        state = self.nodes.get(node)
        if state is not None and state.status_problem != problem:
            state.status_problem = problem
            self.version += 1

    def tick(self, now_s: float) -> None:
        """Drop what is too old, once a minute. Call it about once a second."""
        if minute_of(now_s) != self._minute:
            self._minute = minute_of(now_s)
            self.history.expire(now_s)

    def agents_fields(self) -> dict[str, object]:
        """How many agents there are, and which cannot be read, as JSON fields."""
        missing = [
            {"node": state.node, "reason": state.problem}
            for state in sorted(self.nodes.values(), key=lambda state: state.node)
            if not state.is_reachable
        ]
        unfound = [{"node": "", "reason": self.problem}] if self.problem else []
        return {"total": len(self.nodes), "missing": [*unfound, *missing]}
