"""Questions about connections that were seen: flow records, by the workloads of their pods.

The pods of a record may be gone, so a workload stands for its pods: what policies say about pods of one workload is the same, apart from
address blocks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import parse_address
from netpolq.enums import Protocol
from netpolq.flows.record import OTHER_ADDRESSES, FlowEnd, FlowRecord
from netpolq.reachability.difference import Change, End, Question
from netpolq.reachability.grouping import Group, Key, workload_key
from netpolq.reachability.ports import PortRange


class Seen(NamedTuple):
    """How often connections were seen, and when last (Unix time)."""

    connections: int
    last_seen_s: float

    def with_more(self, other: "Seen") -> "Seen":
        """Both together."""
        return Seen(self.connections + other.connections, max(self.last_seen_s, other.last_seen_s))


@dataclass(slots=True)
class Observed:
    """Connections that were seen, by question. `unanswerable`: records that no question can be made of: of workloads that are in one
    version only, of protocols without ports, or of addresses that were not recorded.
    """

    questions: dict[Question, Seen] = field(default_factory=dict)
    unanswerable: int = 0

    def in_order(self) -> list[Question]:
        """The questions, those about the same ends together."""
        return sorted(self.questions, key=lambda question: (question.source.name, question.destination.name, question.ports))

    def of(self, change: Change) -> Seen:
        """What was seen of the connections of a change."""
        found = [
            seen
            for question, seen in self.questions.items()
            if (question.source.name, question.destination.name) == (change.source, change.destination)
            and question.ports in change.ports
        ]
        return Seen(sum(seen.connections for seen in found), max(seen.last_seen_s for seen in found))


def observed(records: Iterable[FlowRecord], groups: Sequence[Group], ends: Sequence[End]) -> Observed:
    """Return the questions about records. `groups`: of both versions; `ends`: the workloads that are in both."""
    by_name = {end.name: end for end in ends}
    workloads = _Workloads(
        {group.key: by_name[group.name] for group in groups if group.key is not None and group.name in by_name}
    )
    found = Observed()
    for record in records:
        flow = record.flow
        source, destination = workloads.end(flow.source), workloads.end(flow.destination)
        if source is None or destination is None or flow.port is None or flow.protocol not in Protocol.__members__:
            found.unanswerable += 1
            continue
        question = Question(source, destination, PortRange(Protocol[flow.protocol], flow.port, flow.port))
        seen = Seen(record.connections, record.last_seen_s)
        before = found.questions.get(question)
        found.questions[question] = seen if before is None else before.with_more(seen)
    return found


class _Workloads:
    """The workloads that are in both versions."""

    def __init__(self, by_key: Mapping[Key, End]) -> None:
        self._by_key = by_key
        by_labels: dict[Key, set[End]] = {}
        for key, end in by_key.items():
            by_labels.setdefault(key._replace(controller=""), set()).add(end)
        # Manifests may lack the labels that tell the controller of a pod.
        self._by_labels = {key: ends.pop() for key, ends in by_labels.items() if len(ends) == 1 and key.labels}

    def end(self, end: FlowEnd) -> End | None:
        """The end of a question for that of a record; None if it is unknown."""
        if end.pod:
            key = workload_key(end.namespace, end.pod, end.labels)
            return self._by_key.get(key) or self._by_labels.get(key._replace(controller=""))
        if end.address == OTHER_ADDRESSES:
            return None
        address = (parse_address(end.address),)
        return End(end.address, address, address)
