"""Endpoint policies: the local pods, the policies that isolate them, and their programs.

Only what concerns local pods is compiled. Pods of one namespace with equal labels are isolated by the same policies; pods that are
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
    """What the programs of an address allow, by direction (in the order of `Direction`); None: not isolated."""

    egress: Decisions | None
    ingress: Decisions | None


class _Program:
    """A program in use. `uses`: number of endpoint classes that use it."""

    __slots__ = ("code", "compiled", "decisions", "place", "policies", "uses")

    def __init__(self, compiled: Compiled, code: RelocatableProgram, policies: tuple[PolicyKey, ...]) -> None:
        self.compiled = compiled
        self.code = code
        self.policies = policies
        self.decisions = compiled.decisions()
        self.place = 0
        self.uses = 0


class _EndpointClass:
    """Local pods of one namespace with equal labels, by the addresses they own. `selected_by`: policies, in either direction."""

    __slots__ = ("addresses", "labels", "namespace", "programs", "selected_by")

    def __init__(self, namespace: str, labels: Labels) -> None:
        self.namespace = namespace
        self.labels = labels
        self.addresses: set[AddressKey] = set()
        self.selected_by: set[PolicyKey] = set()
        self.programs: list[_Program | None] = [None for _ in Direction]


class EndpointPolicies:
    """The programs of the local addresses. Writes programs and endpoints of a snapshot builder.

    `local`: the addresses of all local pods; `isolated`: those that some policy isolates, by direction (in the order of `Direction`).
    `left_out`: rules whose IP blocks take too much room in a program (`netpolq.policy.cidr_table`) and admit nothing.
    """

    def __init__(self, builder: SnapshotBuilder, groups: PeerClasses) -> None:
        self._builder = builder
        self._peer_classes = groups
        self._policies: dict[str, dict[PolicyKey, NetworkPolicy]] = {}
        self._kinds: dict[str, dict[Labels, _EndpointClass]] = {}
        self._kind_of: dict[AddressKey, _EndpointClass] = {}
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
        before = self._kind_of.pop(address, None)
        after = None if pod is None else self._kind(pod)
        if before is not after:
            self._is_moved = True
            if before is not None:
                before.addresses.discard(address)
                self._stale[before] = None
        if after is not None:
            after.addresses.add(address)
            self._kind_of[address] = after

    def _kind(self, pod: Pod) -> _EndpointClass:
        labels = Labels.of(pod.labels)
        kinds = self._kinds.setdefault(pod.namespace, {})
        kind = kinds.get(labels)
        if kind is None:
            kind = kinds[labels] = _EndpointClass(pod.namespace, labels)
            policies = self._policies.get(pod.namespace, {})
            kind.selected_by = {key for key, policy in policies.items() if matches(policy.pod_selector, labels)}
            self._stale[kind] = None
        return kind

    def put_policy(self, key: PolicyKey, policy: NetworkPolicy | None) -> None:
        """Replace or remove a policy."""
        policies = self._policies.setdefault(key[0], {})
        if policies.get(key) == policy:
            return
        if policy is None:
            del policies[key]
        else:
            policies[key] = policy
        for kind in self._kinds.get(key[0], {}).values():
            was_selected = key in kind.selected_by
            is_selected = policy is not None and matches(policy.pod_selector, kind.labels)
            if was_selected or is_selected:
                (kind.selected_by.add if is_selected else kind.selected_by.discard)(key)
                self._stale[kind] = None
        # Programs are keyed by the names of their policies, which do not change when a policy does.
        for direction in Direction:
            for names in [names for side, names in self._programs if side is direction and key in names]:
                del self._programs[direction, names]

    # --- results -----------------------------------------------------------------------------------------------------------------

    def compile(self) -> Iterator[None]:
        """Compile the programs that are newly needed, and release those no longer needed. Pauses at times."""
        if not self._stale:
            return
        for kind in self._stale:
            policies = self._policies.get(kind.namespace, {})
            names = sorted(kind.selected_by) if kind.addresses else []
            for direction in Direction:
                isolating = tuple(key for key in names if direction in policies[key].policy_types)
                program = self._program(direction, isolating, policies) if isolating else None
                before = kind.programs[direction]
                if program is before:
                    continue
                if program is not None:
                    program.uses += 1
                if before is not None:
                    before.uses -= 1
                    self._released[before] = direction
                kind.programs[direction] = program
                self._is_moved = True
            if not kind.addresses:
                del self._kinds[kind.namespace][kind.labels]
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
            code = encode_program((compiled.tier(self._peer_classes.number),), compiled.rules, strings.number)
            program = self._programs[direction, names] = _Program(compiled, code, names)
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

    def place(self) -> set[AddressKey]:
        """Write programs and endpoints, if they changed. Returns the addresses with other decisions."""
        if not self._is_moved:
            return set()
        self._is_moved = False
        programs: dict[_Program, None] = {}
        endpoints: dict[bytes, tuple[int, int]] = {}
        sides: dict[AddressKey, Sides] = {}
        for address, kind in self._kind_of.items():
            egress, ingress = kind.programs
            for program in (egress, ingress):
                if program is not None and program not in programs:
                    program.place = len(programs)
                    programs[program] = None
            if egress is not None or ingress is not None:
                endpoints[address] = (-1 if egress is None else egress.place), (-1 if ingress is None else ingress.place)
                sides[address] = Sides(_decisions(egress), _decisions(ingress))
        self._builder.set_programs([program.code for program in programs], endpoints)
        self.left_out = frozenset(rule for program in programs for rule in program.compiled.left_out)
        before, self._sides = self._sides, sides
        self.local = frozenset(self._kind_of)
        self.isolated = tuple(
            frozenset(address for address, decided in sides.items() if decided[direction] is not None) for direction in Direction
        )
        return {address for address in before.keys() | sides.keys() if before.get(address) != sides.get(address)}


def _decisions(program: _Program | None) -> Decisions | None:
    return None if program is None else program.decisions
