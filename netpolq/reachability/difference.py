"""The difference of two clusters: the flows between groups that one of them allows and the other denies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.decision import Decision
from netpolq.model import qualified_name
from netpolq.policy.evaluator import Explanation
from netpolq.reachability.cluster import Cluster, Ends, Reach
from netpolq.reachability.grouping import Group
from netpolq.reachability.ports import PortRange
from netpolq.store import Store

_RANK = {Reach.NONE: 0, Reach.SOME: 1, Reach.ALL: 2}


class End(NamedTuple):
    """One end of a question: its name, and its addresses in each cluster."""

    name: str
    old: tuple[AddressKey, ...]
    new: tuple[AddressKey, ...]


class Question(NamedTuple):
    """Whether flows from one end to another are allowed, to a port range that no policy of either cluster divides."""

    source: End
    destination: End
    ports: PortRange


class Version(NamedTuple):
    """The answer of one cluster. `example`: a flow with the explanation. Where the result is `some`, it is one that has changed."""

    reach: Reach
    example: Ends
    explanation: Explanation

    @property
    def decided(self) -> tuple[Decision | None, ...]:
        """What decides the example: the denial, or the decisions of both directions."""
        explanation = self.explanation
        return (explanation.denial,) if explanation.denial else (explanation.egress.decision, explanation.ingress.decision)


class Change(NamedTuple):
    """A changed answer, for one or more port ranges with the same result and the same decisions."""

    source: str
    destination: str
    ports: tuple[PortRange, ...]
    old: Version
    new: Version

    @property
    def cuts(self) -> bool:
        """Whether connections that the old version allows are denied by the new one."""
        return _RANK[self.new.reach] < _RANK[self.old.reach]


class Presence(NamedTuple):
    """Names that are in one cluster only, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def of(cls, old: Iterable[str], new: Iterable[str]) -> "Presence":
        """Compare names."""
        before, after = set(old), set(new)
        return cls(tuple(sorted(after - before)), tuple(sorted(before - after)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Changes of answers, and what is in one cluster only: workloads, which cannot be compared, and namespaces and pods."""

    changes: tuple[Change, ...]
    workloads: Presence
    namespaces: Presence
    pods: Presence


def compare(old: Cluster, new: Cluster, questions: Iterable[Question]) -> Iterator[Change]:
    """Yield the questions with different answers, in order; adjacent questions about the same ends share one where they can.

    Where there is no pair of addresses in a cluster, there is nothing to compare. Raises `NetpolqError` if a cluster is too large.
    """
    for (source, destination), asked in groupby(questions, key=lambda question: (question.source, question.destination)):
        before = old.pairs(source.old, destination.old)
        after = new.pairs(source.new, destination.new)
        changed: dict[object, list[tuple[PortRange, Version, Version]]] = {}
        ranges = tuple(question.ports for question in asked)
        for ports, reach, reach_after in zip(ranges, old.reach(before, ranges), new.reach(after, ranges), strict=True):
            if reach is reach_after or Reach.ABSENT in {reach, reach_after}:
                continue
            was_more_open = _RANK[reach] > _RANK[reach_after]
            versions = (
                _version(old, before, ports, reach, is_allowed=was_more_open),
                _version(new, after, ports, reach_after, is_allowed=not was_more_open),
            )
            same = tuple((version.reach, version.decided) for version in versions)
            changed.setdefault(same, []).append((ports, *versions))
        for found in changed.values():
            _ports, first, second = found[0]
            yield Change(source.name, destination.name, tuple(ports for ports, *_versions in found), first, second)


def _version(cluster: Cluster, pairs: Mapping[int, Ends], ports: PortRange, reach: Reach, *, is_allowed: bool) -> Version:
    """Return an answer with the first pair that is allowed, or that is denied, as the example. There is one."""
    pair = next(pair for pair in pairs if cluster.allows(pair, ports) is is_allowed)
    return Version(reach, pairs[pair], cluster.explain(pair, ports))


def matched(old: Sequence[Group], new: Sequence[Group]) -> tuple[tuple[End, ...], Presence]:
    """Return the groups that are in both clusters, with their addresses in each, and the names of the others.

    Groups belong together by name, or else by key: the name of a workload may depend on the number of its pods.
    """
    by_name = {group.name: group for group in new}
    names = {group.name for group in old}
    by_key = {group.key: group for group in new if group.name not in names}
    ends, rest = [], set(by_name)
    removed = []
    for group in old:
        other = by_name.get(group.name) or by_key.get(group.key)
        if other is None:
            removed.append(group.name)
        else:
            ends.append(End(other.name, group.addresses, other.addresses))
            rest.discard(other.name)
    return tuple(ends), Presence(tuple(sorted(rest)), tuple(removed))


def questions_between(ends: Sequence[End], outside: End, ranges: Sequence[PortRange]) -> Iterator[Question]:
    """Yield the questions about all pairs of ends, and of ends and the outside."""
    shown = (*ends, outside)
    for source in shown:
        for destination in shown:
            if not source == destination == outside:
                yield from (Question(source, destination, ports) for ports in ranges)


def presence(old: Store, new: Store) -> tuple[Presence, Presence]:
    """Return the namespaces and the pods that are in one store only. A namespace with a pod is there, also without a manifest."""
    namespaces = Presence.of(*({*store.namespaces, *(namespace for namespace, _name in store.pods)} for store in (old, new)))
    return namespaces, Presence.of(*({qualified_name(*key) for key in store.pods} for store in (old, new)))
