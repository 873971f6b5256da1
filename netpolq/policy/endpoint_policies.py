"""The endpoint policies: the local pods, the policies that select them, and their programs.

Only policies of local pods are compiled. Pods of one namespace with equal labels are selected by the same policies. A program is a list of
tier programs (`netpolq.policy.policy_scope`), and endpoint classes with the same list share it.

Policies in audit have scopes of their own. Where such a policy selects an endpoint class, it has **shadow programs** beside its programs:
those that it would have if the policies in audit were enforced.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product

from netpolq.addresses import AddressKey
from netpolq.enums import DenyWith, Direction, Tier
from netpolq.model import ClusterNetworkPolicy, Labels, NetworkPolicy, Pod, qualified_name
from netpolq.policy.delta_writer import DeltaWriter
from netpolq.policy.peers import DomainSelector
from netpolq.policy.policy_scope import EndpointClass, PolicyScope, TierSet
from netpolq.policy.selector_uses import SelectorUses
from netpolq.policy.tier_policy import Policy, TierPolicy
from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.ir import Endpoint, Program

_CLUSTER_TIERS = (Tier.ADMIN, Tier.BASELINE)
_WAYS = (False, True)
"""Enforced, in audit."""

Sides = tuple[tuple[tuple[TierPolicy, ...], bool], ...]
"""All policies that decide for an address, and whether their isolation is answered: by direction, then the same of the shadow programs.
Two addresses with equal sides have equal decisions for every flow."""

_NO_SIDE: tuple[tuple[TierPolicy, ...], bool] = ((), False)
_NO_SIDES: Sides = (_NO_SIDE,) * 4
_SHADOW_EGRESS = 2

_ProgramKey = tuple[Direction, tuple[TierSet, ...], bool]
"""Direction, sets of policies, and whether isolation by them is answered."""


class _Program:
    """A program in use. `uses`: the number of endpoint classes with it; `policies`: those of its sets, in order. `has_names`: whether a
    rule has domain names.
    """

    __slots__ = ("has_names", "is_rejected", "key", "number", "policies", "uses")

    def __init__(self, number: int, key: _ProgramKey) -> None:
        self.number = number
        self.key = key
        _direction, sets, self.is_rejected = key
        self.policies = tuple(sorted((policy for tier_set in sets for policy in tier_set.policies), key=_order))
        self.has_names = any(isinstance(selector, DomainSelector) for tier_set in sets for selector in tier_set.selectors)
        self.uses = 0


class EndpointPolicies:
    """The programs of the local addresses. Writes tier programs, programs and endpoints.

    `local`: the addresses of all local pods; `isolated`: those that an enforced policy selects, by direction (in the order of `Direction`);
    `audited`: those that a policy in audit selects, by direction; `asking`: those with domain names in a policy that selects them.
    `namespace_labels`: returns the labels of a namespace. `deny_with`: what isolation in a namespace denies with, unless its policies say.
    """

    def __init__(
        self,
        uses: SelectorUses,
        delta: DeltaWriter,
        namespace_labels: Callable[[str], Mapping[str, str]],
        deny_with: Callable[[str], DenyWith],
    ) -> None:
        self._delta = delta
        self._namespace_labels = namespace_labels
        self._deny_with = deny_with
        self._classes: dict[str, dict[Labels, EndpointClass]] = {}
        self._class_of: dict[AddressKey, EndpointClass] = {}
        tier_numbers = IdAllocator(first=1)

        def new_scope(tier: Tier, namespace: str, *, is_audit: bool) -> PolicyScope:
            return PolicyScope(tier, namespace, uses, tier_numbers, delta, is_audit=is_audit)

        self._new_scope = new_scope
        self._cluster_scopes = tuple(new_scope(tier, "", is_audit=is_audit) for is_audit in _WAYS for tier in _CLUSTER_TIERS)
        self._scopes: dict[tuple[str, bool], PolicyScope] = {}  # of NetworkPolicies, by namespace and whether they are in audit
        self._stale: dict[PolicyScope, None] = {}
        self._concerned: dict[EndpointClass, None] = {}
        self._sets: dict[EndpointClass, dict[tuple[Tier, bool], tuple[tuple[TierSet, ...], ...]]] = {}
        self._programs: dict[_ProgramKey, _Program] = {}
        self._programs_of: dict[EndpointClass, list[_Program | None]] = {}
        self._program_numbers = IdAllocator(first=1)
        self._sides: dict[AddressKey, Sides] = {}
        self._moved: set[AddressKey] = set()
        self._asking: set[AddressKey] = set()
        self.local: frozenset[AddressKey] = frozenset()
        self.asking: frozenset[AddressKey] = frozenset()
        self.isolated: tuple[frozenset[AddressKey], ...] = tuple(frozenset() for _ in Direction)
        self.audited: tuple[frozenset[AddressKey], ...] = tuple(frozenset() for _ in Direction)

    # --- changes ------------------------------------------------------------------------------------------------------------------

    def move(self, address: AddressKey, pod: Pod | None) -> None:
        """Assign an address to a local pod, or to none."""
        before = self._class_of.pop(address, None)
        after = None if pod is None else self._endpoint_class(pod)
        if before is not after:
            self._moved.add(address)
            if before is not None:
                before.addresses.discard(address)
                if not before.addresses:
                    self._mark_stale(before)
        if after is not None:
            if not after.addresses:
                self._mark_stale(after)
            after.addresses.add(address)
            self._class_of[address] = after

    def _endpoint_class(self, pod: Pod) -> EndpointClass:
        labels = Labels.of(pod.labels)
        classes = self._classes.setdefault(pod.namespace, {})
        endpoint_class = classes.get(labels)
        if endpoint_class is None:
            endpoint_class = classes[labels] = EndpointClass(pod.namespace, labels)
            namespace_labels = self._namespace_labels(pod.namespace)
            for scope in self._scopes_of(pod.namespace):
                scope.select(endpoint_class, namespace_labels, scope.policies)
        return endpoint_class

    def _scopes_of(self, namespace: str) -> tuple[PolicyScope, ...]:
        scopes = (self._scopes.get((namespace, is_audit)) for is_audit in _WAYS)
        return (*self._cluster_scopes, *(scope for scope in scopes if scope is not None))

    def _mark_stale(self, endpoint_class: EndpointClass) -> None:
        # The sets of a scope depend on which classes have addresses.
        self._concerned[endpoint_class] = None
        for scope in self._scopes_of(endpoint_class.namespace):
            if endpoint_class.selected_by.get(scope):
                self._stale[scope] = None

    def put_policy(self, namespace: str, name: str, policy: NetworkPolicy | None, *, is_audit: bool) -> None:
        """Add, replace or remove a NetworkPolicy. `is_audit`: whether it is in audit now."""
        for way in _WAYS:
            scope, present = self._scopes.get((namespace, way)), policy if is_audit is way else None
            if scope is None:
                if present is None:
                    continue
                scope = self._scopes[namespace, way] = self._new_scope(Tier.NETWORK_POLICY, namespace, is_audit=way)
            self._put(scope, qualified_name(namespace, name), present)

    def put_cluster_policy(self, name: str, policy: ClusterNetworkPolicy | None, *, is_audit: bool) -> None:
        """Add, replace or remove a cluster-wide policy. `is_audit`: whether it is in audit now."""
        for scope in self._cluster_scopes:
            is_here = policy is not None and policy.tier is scope.tier and is_audit is scope.is_audit
            self._put(scope, name, policy if is_here else None)

    def _put(self, scope: PolicyScope, name: str, policy: Policy | None) -> None:
        if scope.put(name, policy):
            for endpoint_class in self._classes_in(scope):
                if scope.select(endpoint_class, self._namespace_labels(endpoint_class.namespace), (name,)):
                    self._stale[scope] = None

    def label(self, namespace: str, labels: Mapping[str, str]) -> None:
        """Set the labels of a namespace, by which cluster-wide policies select, and follow a change of what it denies with."""
        for endpoint_class in self._classes.get(namespace, {}).values():
            self._concerned[endpoint_class] = None
            for scope in self._cluster_scopes:
                before = set(endpoint_class.selected_by.get(scope, ()))
                scope.select(endpoint_class, labels, scope.policies)
                if endpoint_class.selected_by[scope] != before:
                    self._stale[scope] = None

    def _classes_in(self, scope: PolicyScope) -> list[EndpointClass]:
        namespaces = [self._classes.get(scope.namespace, {})] if scope.namespace else self._classes.values()
        return [endpoint_class for classes in namespaces for endpoint_class in classes.values()]

    # --- results ------------------------------------------------------------------------------------------------------------------

    def compile(self) -> Iterator[None]:
        """Compile new tier programs and programs, and release unused ones. Yields after each new tier program."""
        for scope in self._stale:
            classes = self._classes_in(scope)
            by_direction = yield from scope.compile([endpoint_class for endpoint_class in classes if endpoint_class.addresses])
            for endpoint_class in classes:
                by_tier = self._sets.setdefault(endpoint_class, {})
                sets = tuple(found.get(endpoint_class, ()) for found in by_direction)
                if by_tier.get((scope.tier, scope.is_audit)) != sets:
                    by_tier[scope.tier, scope.is_audit] = sets
                    self._concerned[endpoint_class] = None
        self._stale = {}
        self._replace_programs()

    def _replace_programs(self) -> None:
        released: dict[_Program, None] = {}
        for endpoint_class in self._concerned:
            programs = self._programs_of.setdefault(endpoint_class, [None] * len(_NO_SIDES))
            for place, (is_shadow, direction) in enumerate(product(_WAYS, Direction)):
                before, after = programs[place], self._program(direction, endpoint_class, is_shadow=is_shadow)
                if before is after:
                    continue
                if after is not None:
                    after.uses += 1
                if before is not None:
                    before.uses -= 1
                    released[before] = None
                programs[place] = after
                self._moved |= endpoint_class.addresses
            if not endpoint_class.addresses:
                self._sets.pop(endpoint_class, None)
                del self._programs_of[endpoint_class], self._classes[endpoint_class.namespace][endpoint_class.labels]
        self._concerned = {}
        for program in released:
            if not program.uses:
                del self._programs[program.key]
                self._delta.programs[program.number] = None
                self._program_numbers.free(program.number)

    def _program(self, direction: Direction, endpoint_class: EndpointClass, *, is_shadow: bool) -> _Program | None:
        """The program of a class; None if it needs none. It needs a shadow program where a policy in audit selects it."""
        by_tier = self._sets.get(endpoint_class, {})
        ways = _WAYS if is_shadow else (False,)
        sets = tuple(tier_set for key in product(Tier, ways) if key in by_tier for tier_set in by_tier[key][direction])
        if not sets or not endpoint_class.addresses:
            return None
        if is_shadow and not any(by_tier[tier, True][direction] for tier in Tier if (tier, True) in by_tier):
            return None
        key = direction, sets, self._is_isolation_rejected(endpoint_class.namespace, sets)
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = _Program(self._program_numbers.allocate(), key)
            isolated_by = tuple(policy.name for policy in program.policies if policy.tier is Tier.NETWORK_POLICY)
            tiers = tuple(tier_set.number for tier_set in sets)
            self._delta.programs[program.number] = Program(direction, tiers, isolated_by, program.is_rejected)
        return program

    def _is_isolation_rejected(self, namespace: str, sets: tuple[TierSet, ...]) -> bool:
        """Whether isolation is answered: a policy that says drop wins, then one that says reject, then the namespace."""
        isolating = [policy.deny_with for each in sets for policy in each.policies if policy.tier is Tier.NETWORK_POLICY]
        if not isolating or DenyWith.DROP in isolating:
            return False
        return DenyWith.REJECT in isolating or self._deny_with(namespace) is DenyWith.REJECT

    def deciding_policies(self, address: AddressKey) -> tuple[tuple[TierPolicy, ...], ...]:
        """The policies in the programs of an address, by direction, in the order of their evaluation."""
        return tuple(policies for policies, _is_rejected in self._sides.get(address, _NO_SIDES)[:_SHADOW_EGRESS])

    def policies_with_audit(self, address: AddressKey) -> tuple[tuple[TierPolicy, ...], ...]:
        """The policies in the shadow programs of an address, by direction: those in audit and the others; empty without one in audit."""
        return tuple(policies for policies, _is_rejected in self._sides.get(address, _NO_SIDES)[_SHADOW_EGRESS:])

    def write_endpoints(self) -> set[AddressKey]:
        """Write the endpoints that changed. Returns the addresses with other decisions than before."""
        changed = set()
        for address in self._moved:
            endpoint_class = self._class_of.get(address)
            programs = [None] * len(_NO_SIDES) if endpoint_class is None else self._programs_of[endpoint_class]
            sides: Sides = tuple(_NO_SIDE if each is None else (each.policies, each.is_rejected) for each in programs)
            egress, ingress, shadow_egress, shadow_ingress = programs
            self._delta.endpoints[address] = _endpoint(egress, ingress)
            shadow = None
            if shadow_egress is not None or shadow_ingress is not None:
                shadow = _endpoint(shadow_egress or egress, shadow_ingress or ingress)
            if shadow is not None or self._sides.get(address, _NO_SIDES)[_SHADOW_EGRESS:] != _NO_SIDES[_SHADOW_EGRESS:]:
                self._delta.shadows[address] = shadow
            if any(program is not None and program.has_names for program in (egress, shadow_egress)):
                self._asking.add(address)
            else:
                self._asking.discard(address)
            if self._sides.get(address, _NO_SIDES) != sides:
                changed.add(address)
            if sides == _NO_SIDES:
                self._sides.pop(address, None)
            else:
                self._sides[address] = sides
        if self._moved:
            self._moved = set()
            self.local = frozenset(self._class_of)
            self.asking = frozenset(self._asking)
            by_place = [frozenset(address for address, sides in self._sides.items() if sides[place][0]) for place in range(4)]
            self.isolated = tuple(by_place[:_SHADOW_EGRESS])
            self.audited = tuple(by_place[_SHADOW_EGRESS:])
        return changed


def _endpoint(egress: _Program | None, ingress: _Program | None) -> Endpoint | None:
    if egress is None and ingress is None:
        return None
    return Endpoint(*(0 if program is None else program.number for program in (egress, ingress)))


def _order(policy: TierPolicy) -> tuple[Tier, int, str]:
    return policy.tier, policy.priority, policy.name
