"""The series of denials of this node's pods, and which of them is written next. Pure; the caller passes the time.

Bounds. There are at most `Limits.series` series. Addresses outside the cluster are what an outsider can invent: beyond a few for each pod
they are one series. The table is the backlog of the writer, too: what waits for a write is a series that keeps counting. What is dropped
before it is written is counted as suppressed.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from netpolq.controllers import controller_name
from netpolq.decision import Decision, denies
from netpolq.enums import Direction
from netpolq.events.limits import Bucket, Limits
from netpolq.events.message import message_of
from netpolq.events.series import IN_FLIGHT, OTHER_PEERS, UNWRITTEN, Key, PodIdentity, Reason, Series, State, Step
from netpolq.flows.record import Flow, FlowEnd, FlowVerdict
from netpolq.model import qualified_name

_Group = tuple[PodIdentity, Direction, Reason]


class Write(NamedTuple):
    """An Event to create, or the one of the same series to update. Times: Unix."""

    key: Key
    token: int
    is_new: bool
    message: str
    connections: int
    first_s: float
    last_s: float


class EventTable:
    """`local_pod`: the pod of a namespace and a name, if it is one of this node. `make_token`: a number that no other agent chooses.

    `suppressed`: series that were dropped before they were written, or before their last connections were.
    """

    def __init__(
        self,
        local_pod: Callable[[str, str], PodIdentity | None],
        make_token: Callable[[], int],
        now: float,
        limits: Limits | None = None,
    ) -> None:
        self._local_pod = local_pod
        self._make_token = make_token
        self._limits = limits if limits is not None else Limits()
        self._series: dict[Key, Series] = {}  # the last denied one is the last
        self._outside: dict[_Group, int] = {}
        self._node = Bucket(self._limits.node_interval_s, self._limits.node_burst, now)
        self._pods: dict[PodIdentity, Bucket] = {}
        self.suppressed = 0

    def __len__(self) -> int:
        return len(self._series)

    @property
    def waiting(self) -> int:
        """Series that are not written yet, or not with all their connections."""
        return sum(series.state in UNWRITTEN for series in self._series.values())

    def note(self, flow: Flow, first_s: float, last_s: float, connections: int, now: float) -> None:
        """Count connections, if a policy of a pod of this node denied them, or would have. `first_s`, `last_s`: Unix time."""
        for reason, decision in _denials(flow):
            ends = flow.source, flow.destination
            end, peer = ends if decision.direction is Direction.EGRESS else ends[::-1]
            pod = self._local_pod(end.namespace, end.pod) if end.pod else None
            if pod is None:
                continue
            series = self._find(pod, reason, decision, peer, first_s, last_s, now)
            series.step(Step.DENIED)
            series.decision = decision
            series.connections += connections
            series.first_s, series.last_s = min(series.first_s, first_s), max(series.last_s, last_s)
            series.seen_at = now
            series.note_address(peer.address)
            series.note_port(flow.protocol if flow.port is None else f"{flow.protocol} {flow.port}")

    def _find(
        self, pod: PodIdentity, reason: Reason, decision: Decision, peer: FlowEnd, first_s: float, last_s: float, now: float
    ) -> Series:
        """The series of a denial, which becomes the last one."""
        name, is_outside = _peer_name(peer)
        key = Key(pod, decision.direction, reason, name, is_outside)
        group = pod, decision.direction, reason
        if is_outside and key not in self._series and self._outside.get(group, 0) >= self._limits.outside:
            key = key._replace(peer=OTHER_PEERS, is_outside=False)
        series = self._series.pop(key, None)
        if series is None:
            series = Series(key, self._make_token(), decision, first_s, last_s, seen_at=now, due_at=now)
            if key.is_outside:
                self._outside[group] = self._outside.get(group, 0) + 1
            if len(self._series) >= self._limits.series:
                oldest = next((key for key, other in self._series.items() if other.state not in IN_FLIGHT), None)
                if oldest is not None:
                    self._drop(oldest)
        self._series[key] = series
        return series

    def _drop(self, key: Key) -> None:
        series = self._series.pop(key)
        self.suppressed += series.state in UNWRITTEN
        if key.is_outside:
            group = key.pod, key.direction, key.reason
            self._outside[group] -= 1
            if not self._outside[group]:
                del self._outside[group]

    def next_write(self, now: float) -> Write | None:
        """The write that has been due for longest and is within the limits, or None. Its outcome must follow."""
        self._expire(now)
        if not self._node.has_token(now):
            return None
        found: Series | None = None
        for series in self._series.values():
            if series.state not in UNWRITTEN or series.due_at > now or (found is not None and series.due_at >= found.due_at):
                continue
            if series.state is State.CHANGED or self._bucket(series.key.pod, now).has_token(now):
                found = series
        return None if found is None else self._take(found, now)

    def _take(self, series: Series, now: float) -> Write:
        is_new = series.state is State.NEW
        self._node.take(now)
        if is_new:
            self._bucket(series.key.pod, now).take(now)
        series.step(Step.TAKEN)
        return Write(series.key, series.token, is_new, message_of(series), series.connections, series.first_s, series.last_s)

    def on_written(self, write: Write, now: float) -> None:
        """Note that the server has taken a write."""
        series = self._series[write.key]
        series.step(Step.CURRENT if series.connections == write.connections else Step.BEHIND)
        series.due_at = now + self._limits.update_s

    def on_exists(self, write: Write, now: float) -> None:
        """Note that the Event of a new series is there already: the answer to an earlier write was lost."""
        self._series[write.key].step(Step.BEHIND)
        self._series[write.key].due_at = now

    def on_failed(self, write: Write, now: float) -> None:
        """Note that the server could not be reached, or refuses all writes at the moment. The next write is another one."""
        self._series[write.key].step(Step.FAILED)
        self._series[write.key].due_at = now

    def on_gone(self, write: Write, now: float) -> None:
        """Note that the server refuses this write for good: the pod, its namespace or the Event is gone."""
        series = self._series[write.key]
        series.due_at = now
        if series.step(Step.GONE) is State.DROPPED:
            self._drop(write.key)

    def _bucket(self, pod: PodIdentity, now: float) -> Bucket:
        if (bucket := self._pods.get(pod)) is None:
            bucket = self._pods[pod] = Bucket(self._limits.pod_interval_s, self._limits.pod_burst, now)
        return bucket

    def _expire(self, now: float) -> None:
        """Drop the series without a denial for long, and buckets as good as new."""
        wait_s, idle_s = self._limits.wait_s, self._limits.idle_s
        over = []
        for key, series in self._series.items():
            if now - series.seen_at <= min(wait_s, idle_s):
                break  # those after it were denied later
            if series.state not in IN_FLIGHT and now - series.seen_at > (wait_s if series.state is State.NEW else idle_s):
                over.append(key)
        for key in over:
            self._drop(key)
        if len(self._pods) > len(self._series):
            self._pods = {pod: bucket for pod, bucket in self._pods.items() if not bucket.is_full(now)}


def _denials(flow: Flow) -> Iterator[tuple[Reason, Decision]]:
    """What denied the connections, or would have: one decision, or one for each direction."""
    if not flow.verdict.is_enforced_accept:
        reason, decisions = Reason.DENIED, (flow.egress, flow.ingress)
    elif flow.verdict is FlowVerdict.WOULD_DENY:
        reason, decisions = Reason.WOULD_DENY, (flow.audit_egress, flow.audit_ingress)
    else:
        return
    for decision in decisions:
        if decision is not None and denies(decision):
            yield reason, decision


def _peer_name(peer: FlowEnd) -> tuple[str, bool]:
    """The peer as a part of a key, and whether it is an address that an outsider can invent."""
    if peer.pod:
        return qualified_name(peer.namespace, controller_name(peer.pod, peer.labels) or peer.pod), False
    return (peer.names[0], False) if peer.names else (peer.address, True)
