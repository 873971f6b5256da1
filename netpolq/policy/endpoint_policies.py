"""The endpoint policies: the local pods, the policies that isolate them, and their programs.

Only policies of local pods are compiled. Pods of one namespace with equal labels are isolated by the same policies; pods that are
isolated by the same policies share a program.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.enums import Direction
from netpolq.model import Labels, NetworkPolicy, Pod
from netpolq.policy.peer_classes import PeerClasses
from netpolq.policy.program_compiler import Compiled, Decisions, compile_policies
from netpolq.policy.selectors import matches
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.ir import Rule
from netpolq.snapshot.program_encoder import RelocatableProgram, encode_program

PolicyKey = tuple[str, str]
"""Namespace and name."""


class Sides(NamedTuple):
    """The decisions for an address by direction (in the order of `Direction`); None: not isolated."""

    egress: Decisions | None
    ingress: Decisions | None


class _Program:
    """A program in use. `uses`: the number of endpoint classes with it."""

    __slots__ = ("compiled", "decisions", "encoded", "index", "policies", "uses")

    def __init__(self, compiled: Compiled, encoded: RelocatableProgram, policies: tuple[PolicyKey, ...]) -> None:
        self.compiled = compiled
        self.encoded = encoded
        self.policies = policies
        self.decisions = compiled.decisions()
        self.index = 0
        self.uses = 0


class _EndpointClass:
    """Local pods of one namespace with equal labels. `addresses`: theirs; `selected_by`: policies, in either direction."""

    __slots__ = ("addresses", "labels", "namespace", "programs", "selected_by")

    def __init__(self, namespace: str, labels: Labels) -> None:
        self.namespace = namespace
        self.labels = labels
        self.addresses: set[AddressKey] = set()
        self.selected_by: set[PolicyKey] = set()
        self.programs: list[_Program | None] = [None for _ in Direction]


class EndpointPolicies:
    """The programs of the local addresses. Writes the programs and endpoints of a builder.

    `local`: the addresses of all local pods; `isolated`: those that some policy isolates, by direction (in the order of `Direction`).
    `left_out`: rules whose IP blocks exceed the size limit of a program (`netpolq.policy.cidr_table`) and admit nothing.
    """

    def __init__(self, builder: SnapshotBuilder, peer_classes: PeerClasses) -> None:
        self._builder = builder
        self._peer_classes = peer_classes
        self._policies: dict[str, dict[PolicyKey, NetworkPolicy]] = {}
        self._classes: dict[str, dict[Labels, _EndpointClass]] = {}
        self._class_of: dict[AddressKey, _EndpointClass] = {}
        self._programs: dict[tuple[Direction, tuple[PolicyKey, ...]], _Program] = {}
        self._stale: dict[_EndpointClass, None] = {}
        self._released: dict[_Program, Direction] = {}
        self._sides: dict[AddressKey, Sides] = {}
        self._is_moved = False
        self.local: frozenset[AddressKey] = frozenset()
        self.isolated: tuple[frozenset[AddressKey], ...] = tuple(frozenset() for _ in Direction)
        self.left_out: frozenset[Rule] = frozenset()

    # --- changes ------------------------------------------------------------------------------------------------------------------

    def move(self, address: AddressKey, pod: Pod | None) -> None:
        """Assign an address to a local pod, or to none."""
        before = self._class_of.pop(address, None)
        after = None if pod is None else self._endpoint_class(pod)
        if before is not after:
            self._is_moved = True
            if before is not None:
                before.addresses.discard(address)
                self._stale[before] = None
        if after is not None:
            after.addresses.add(address)
            self._class_of[address] = after

    def _endpoint_class(self, pod: Pod) -> _EndpointClass:
        labels = Labels.of(pod.labels)
        classes = self._classes.setdefault(pod.namespace, {})
        endpoint_class = classes.get(labels)
        if endpoint_class is None:
            endpoint_class = classes[labels] = _EndpointClass(pod.namespace, labels)
            policies = self._policies.get(pod.namespace, {})
            endpoint_class.selected_by = {key for key, policy in policies.items() if matches(policy.pod_selector, labels)}
            self._stale[endpoint_class] = None
        return endpoint_class

    def put_policy(self, key: PolicyKey, policy: NetworkPolicy | None) -> None:
        """Add, replace or remove a policy."""
        policies = self._policies.setdefault(key[0], {})
        if policies.get(key) == policy:
            return
        if policy is None:
            del policies[key]
        else:
            policies[key] = policy
        for endpoint_class in self._classes.get(key[0], {}).values():
            was_selected = key in endpoint_class.selected_by
            is_selected = policy is not None and matches(policy.pod_selector, endpoint_class.labels)
            if was_selected or is_selected:
                (endpoint_class.selected_by.add if is_selected else endpoint_class.selected_by.discard)(key)
                self._stale[endpoint_class] = None
        # The key of a program is the names of its policies, which stay the same when a policy changes.
        for direction in Direction:
            for names in [names for side, names in self._programs if side is direction and key in names]:
                del self._programs[direction, names]

    # --- results ------------------------------------------------------------------------------------------------------------------

    def compile(self) -> Iterator[None]:
        """Compile new programs and release unused ones. Yields after each endpoint class."""
        if not self._stale:
            return
        for endpoint_class in self._stale:
            policies = self._policies.get(endpoint_class.namespace, {})
            names = sorted(endpoint_class.selected_by) if endpoint_class.addresses else []
            for direction in Direction:
                isolating = tuple(key for key in names if direction in policies[key].policy_types)
                program = self._program(direction, isolating, policies) if isolating else None
                before = endpoint_class.programs[direction]
                if program is before:
                    continue
                if program is not None:
                    program.uses += 1
                if before is not None:
                    before.uses -= 1
                    self._released[before] = direction
                endpoint_class.programs[direction] = program
                self._is_moved = True
            if not endpoint_class.addresses:
                del self._classes[endpoint_class.namespace][endpoint_class.labels]
            yield
        self._stale = {}
        for program, direction in self._released.items():
            if not program.uses:
                self._release(direction, program)
        self._released = {}

    def _program(
        self, direction: Direction, names: tuple[PolicyKey, ...], policies: Mapping[PolicyKey, NetworkPolicy]
    ) -> _Program:
        program = self._programs.get((direction, names))
        if program is None:
            compiled = compile_policies(direction, [policies[key] for key in names])
            for selector in compiled.selectors:
                self._peer_classes.acquire(selector)
            for name in sorted(compiled.port_names):
                self._peer_classes.acquire_port_name(name)
            strings = self._builder.strings
            for text in compiled.isolated_by:
                strings.acquire(text)
            encoded = encode_program((compiled.tier(self._peer_classes.number),), compiled.rules, strings.number)
            program = self._programs[direction, names] = _Program(compiled, encoded, names)
        return program

    def _release(self, direction: Direction, program: _Program) -> None:
        for selector in program.compiled.selectors:
            self._peer_classes.release(selector)
        for name in program.compiled.port_names:
            self._peer_classes.release_port_name(name)
        for text in program.compiled.isolated_by:
            self._builder.strings.release(text)
        if self._programs.get((direction, program.policies)) is program:
            del self._programs[direction, program.policies]

    def write_endpoints(self) -> set[AddressKey]:
        """Write the programs and endpoints if they changed. Returns the addresses with other decisions than before."""
        if not self._is_moved:
            return set()
        self._is_moved = False
        programs: dict[_Program, None] = {}
        endpoints: dict[bytes, tuple[int, int]] = {}
        sides: dict[AddressKey, Sides] = {}
        for address, endpoint_class in self._class_of.items():
            egress, ingress = endpoint_class.programs
            for program in (egress, ingress):
                if program is not None and program not in programs:
                    program.index = len(programs)
                    programs[program] = None
            if egress is not None or ingress is not None:
                endpoints[address] = (-1 if egress is None else egress.index), (-1 if ingress is None else ingress.index)
                sides[address] = Sides(_decisions(egress), _decisions(ingress))
        self._builder.set_programs([program.encoded for program in programs], endpoints)
        self.left_out = frozenset(rule for program in programs for rule in program.compiled.left_out)
        before, self._sides = self._sides, sides
        self.local = frozenset(self._class_of)
        self.isolated = tuple(
            frozenset(address for address, decided in sides.items() if decided[direction] is not None) for direction in Direction
        )
        return {address for address in before.keys() | sides.keys() if before.get(address) != sides.get(address)}


def _decisions(program: _Program | None) -> Decisions | None:
    return None if program is None else program.decisions
