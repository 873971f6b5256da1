"""What domain names have to do with a decision: the names by which the deciding rule matches, and the rules that a name would open.

Read straight from the objects, like the near misses (`netpolq.policy.near_miss`). Only rules for egress have domain names, and they accept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.decision import RuleDecision, tier_of
from netpolq.enums import Direction, Tier
from netpolq.model import ClusterRule, DomainPeer, PolicyRule
from netpolq.policy.domain_names import matches
from netpolq.policy.evaluator import Side
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store


class NameMatch(NamedTuple):
    """A learned name of the destination, and the pattern of the deciding rule that matches it."""

    pattern: str
    name: str


class Opening(NamedTuple):
    """A rule that would accept a denied flow if the destination had a name that one of its patterns matches."""

    rule: RuleDecision
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameReasons:
    """`matched`: of the rule that decides, sorted. `openings`: of a direction that denies, in the order of evaluation."""

    matched: tuple[NameMatch, ...] = ()
    openings: tuple[Opening, ...] = ()


class NameReasonFinder:
    """Finds the reasons in a store, which must not change meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reference = ReferenceEvaluator(store)

    def find(self, egress: Side, source: AddressKey, destination: AddressKey, protocol: int, port: int) -> NameReasons:
        """The reasons of the egress of a flow, as an evaluator has explained it."""
        return NameReasons(
            matched=tuple(sorted(self._matched(egress, destination))),
            openings=tuple(self._openings(egress, source, destination, protocol, port)) if egress.denies else (),
        )

    def _matched(self, egress: Side, destination: AddressKey) -> Iterator[NameMatch]:
        rule = egress.rule
        if rule is None or rule.tier is Tier.NETWORK_POLICY:
            return
        names = self._store.names.get(destination, frozenset())
        for pattern in _patterns(self._store.cluster_policies[rule.policy].rules(Direction.EGRESS)[rule.position]):
            yield from (NameMatch(pattern, name) for name in names if matches(pattern, name))

    def _openings(self, egress: Side, source: AddressKey, destination: AddressKey, protocol: int, port: int) -> Iterator[Opening]:
        pod = self._reference.owner(source)
        if pod is None:
            return
        final = {*egress.passes, egress.decision}
        for tier in Tier:
            for decision, _namespace, rule in self._reference.rules(tier, Direction.EGRESS, pod):
                if decision in final:
                    break
                patterns = _patterns(rule)
                if patterns and self._reference.ports_match(rule, destination, protocol, port):
                    yield Opening(decision, patterns)
            if egress.decision is not None and tier is tier_of(egress.decision):
                return


def _patterns(rule: PolicyRule | ClusterRule) -> tuple[str, ...]:
    return tuple(peer.pattern for peer in rule.peers or () if isinstance(peer, DomainPeer))
