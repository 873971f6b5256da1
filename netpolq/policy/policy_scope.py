"""Policy scopes: the policies of one tier that choose among the same endpoint classes, and the tier programs compiled from them.

Policies that select the same endpoint classes form one set. Each set is compiled and stored once, and every endpoint class has the sets
that select it. So the cost of a change grows with the policies and not with policies times endpoint classes.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence

from netpolq.addresses import AddressKey
from netpolq.enums import Direction, Tier
from netpolq.model import Labels
from netpolq.policy.delta_writer import DeltaWriter
from netpolq.policy.selector_uses import SelectorUses
from netpolq.policy.tier_compiler import compile_tier, port_names_of, selectors_of
from netpolq.policy.tier_policy import Policy, TierPolicy, selects, tier_policy
from netpolq.snapshot.id_allocator import IdAllocator


class EndpointClass:
    """Local pods of one namespace with equal labels. `addresses`: theirs. `selected_by`: names of policies, by their scope."""

    __slots__ = ("addresses", "labels", "namespace", "selected_by")

    def __init__(self, namespace: str, labels: Labels) -> None:
        self.namespace = namespace
        self.labels = labels
        self.addresses: set[AddressKey] = set()
        self.selected_by: dict[PolicyScope, set[str]] = {}


class TierSet:
    """A compiled set of policies. `number`: that of its tier program. `policies`: in the order of their evaluation."""

    __slots__ = ("number", "policies", "port_names", "selectors")

    def __init__(self, number: int, policies: tuple[TierPolicy, ...]) -> None:
        self.number = number
        self.policies = policies
        self.selectors = selectors_of(policies)
        self.port_names = port_names_of(policies)


SetsOf = Mapping[EndpointClass, tuple[TierSet, ...]]
"""The sets that select an endpoint class in one direction."""

_Key = tuple[Direction, tuple[str, ...]]


class PolicyScope:
    """The policies of one tier: NetworkPolicies of one namespace, or all cluster-wide policies. Writes tier programs.

    `is_audit`: they are all in audit, else none is. `namespace`: empty for cluster-wide policies. `policies`: by name (ns/name, or the
    name of a cluster-wide policy).
    """

    def __init__(
        self, tier: Tier, namespace: str, uses: SelectorUses, numbers: IdAllocator, delta: DeltaWriter, *, is_audit: bool = False
    ) -> None:
        self.tier = tier
        self.is_audit = is_audit
        self.namespace = namespace
        self.policies: dict[str, Policy] = {}
        self._sides: dict[str, tuple[TierPolicy | None, ...]] = {}  # of the policies that select an endpoint, by direction
        self._uses = uses
        self._numbers = numbers
        self._delta = delta
        self._sets: dict[_Key, TierSet] = {}

    def put(self, name: str, policy: Policy | None) -> bool:
        """Add, replace or remove a policy. Returns whether anything changed."""
        if self.policies.get(name) == policy:
            return False
        self._sides.pop(name, None)
        if policy is None:
            del self.policies[name]
        else:
            self.policies[name] = policy
        return True

    def select(self, endpoint_class: EndpointClass, namespace_labels: Mapping[str, str], names: Iterable[str]) -> bool:
        """Find out which of the policies with these names select an endpoint class. Returns whether any of them does or did."""
        selected = endpoint_class.selected_by.setdefault(self, set())
        is_concerned = False
        for name in names:
            policy = self.policies.get(name)
            if policy is not None and selects(policy, namespace_labels, endpoint_class.labels):
                selected.add(name)
                is_concerned = True
            elif name in selected:
                selected.discard(name)
                is_concerned = True
        return is_concerned

    def compile(self, classes: Sequence[EndpointClass]) -> Generator[None, None, tuple[SetsOf, SetsOf]]:
        """Compile the sets in use and release the others. Yields after each new set. Returns the sets of each class, by direction."""
        in_use: dict[_Key, TierSet] = {}
        egress = yield from self._partition(Direction.EGRESS, classes, in_use)
        ingress = yield from self._partition(Direction.INGRESS, classes, in_use)
        for key, tier_set in self._sets.items():
            if in_use.get(key) is not tier_set:
                self._release(tier_set)
        self._sets = in_use
        return egress, ingress

    def _partition(
        self, direction: Direction, classes: Sequence[EndpointClass], in_use: dict[_Key, TierSet]
    ) -> Generator[None, None, SetsOf]:
        extents: dict[str, list[int]] = {}
        for index, endpoint_class in enumerate(classes):
            for name in endpoint_class.selected_by.get(self, ()):
                extents.setdefault(name, []).append(index)
        members: dict[tuple[int, ...], list[TierPolicy]] = {}
        for name, extent in extents.items():
            side = self._side(name, direction)
            if side is not None:
                members.setdefault(tuple(extent), []).append(side)
        for policies in members.values():
            policies.sort(key=_precedence)
        sets: dict[EndpointClass, tuple[TierSet, ...]] = {}
        for selected, policies in sorted(members.items(), key=lambda member: member[1][0].precedence):
            key = direction, tuple(policy.name for policy in policies)
            tier_set = self._sets.get(key)
            if tier_set is None or tier_set.policies != tuple(policies):
                tier_set = self._compile(direction, tuple(policies))
                yield
            in_use[key] = tier_set
            for index in selected:
                sets[classes[index]] = (*sets.get(classes[index], ()), tier_set)
        return sets

    def _side(self, name: str, direction: Direction) -> TierPolicy | None:
        sides = self._sides.get(name)
        if sides is None:
            sides = self._sides[name] = tuple(tier_policy(self.policies[name], each) for each in Direction)
        return sides[direction]

    def _compile(self, direction: Direction, policies: tuple[TierPolicy, ...]) -> TierSet:
        tier_set = TierSet(self._numbers.allocate(), policies)
        for selector in tier_set.selectors:
            self._uses.acquire(selector)
        for name in tier_set.port_names:
            self._uses.acquire_port_name(name)
        self._delta.tiers[tier_set.number] = compile_tier(direction, policies, self._uses.number)
        return tier_set

    def _release(self, tier_set: TierSet) -> None:
        for selector in tier_set.selectors:
            self._uses.release(selector)
        for name in tier_set.port_names:
            self._uses.release_port_name(name)
        self._delta.tiers[tier_set.number] = None
        self._numbers.free(tier_set.number)


def _precedence(policy: TierPolicy) -> tuple[int, str]:
    return policy.precedence
