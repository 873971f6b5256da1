"""Compiled policy in tests: a store with everything behind it up to the bytes, small snapshots from values, and a comparable form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import Action, DenyWith, Direction, Protocol, Tier
from netpolq.hold.ranges import PodRange
from netpolq.model import Pod
from netpolq.policy.compiler import Compiler
from netpolq.policy.peers import Selector
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.ir import CompiledDelta, Endpoint, Identity, PortTable, Program, Rule, TierProgram
from netpolq.snapshot.reader import SnapshotReader
from netpolq.store import Store

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

EVERY_PORT = PortTable(0, (), ())
"""The port table of a rule without ports."""


def encode(delta: CompiledDelta, *, version: int = 1, created_ns: int = 0) -> bytes:
    """The bytes of a snapshot that has these contents."""
    builder = SnapshotBuilder()
    builder.apply(delta)
    return builder.encoded(version=version, created_ns=created_ns)


def ingress_policy(
    *isolated_by: str, endpoints: tuple[bytes, ...], friends: tuple[bytes, ...] = (), ports: PortTable = EVERY_PORT
) -> CompiledDelta:
    """NetworkPolicies that isolate endpoints for ingress. The last one has a rule that admits the friends on some ports."""
    rule = Rule(Tier.NETWORK_POLICY, 0, isolated_by[-1], Direction.INGRESS, 0, Action.ACCEPT, "")
    selectors = ((0, (ports,)),) if friends else ()
    tier = TierProgram(Tier.NETWORK_POLICY, isolated_by, (rule,), (), selectors, None, None)
    return CompiledDelta(
        identities={1: Identity((0,), ())},
        addresses=dict.fromkeys(map(AddressKey, friends), 1),
        tiers={1: tier},
        programs={1: Program(Direction.INGRESS, (1,), isolated_by)},
        endpoints=dict.fromkeys(map(AddressKey, endpoints), Endpoint(0, 1)),
    )


def known_peers(*, pods: Sequence[str], friends: Sequence[str], strangers: Sequence[str]) -> CompiledDelta:
    """A NetworkPolicy that isolates pods for ingress and admits friends. `strangers`: have an identity, too, that no rule admits."""
    delta = ingress_policy(
        "a/b", endpoints=tuple(map(parse_address, pods)), friends=tuple(map(parse_address, friends)) or (bytes(16),)
    )
    addresses = {**dict.fromkeys(map(parse_address, friends), 1), **dict.fromkeys(map(parse_address, strangers), 2)}
    identities = {number: Identity((0,) if number == 1 else (), ()) for number in addresses.values()}
    return replace(delta, identities=identities, addresses=addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """The compiled policy without numbers: what depends on the objects alone.

    `identities`: selectors that match and named ports, by address. `programs`: egress and ingress of each endpoint, as tier programs
    whose selectors are sorted by their value. `shadows`: the same with the policies in audit.
    """

    identities: Mapping[AddressKey, tuple[frozenset[Selector], tuple[tuple[str, Protocol, int], ...]]]
    programs: Mapping[AddressKey, tuple[object, ...]]
    shadows: Mapping[AddressKey, tuple[object, ...]]
    pod_names: Mapping[AddressKey, str]


class Compilation:
    """A store, the compiler that keeps up with it, and a snapshot builder behind that."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        is_local: Callable[[Pod], bool] = lambda _pod: True,
        with_pod_names: bool = False,
        known_ranges: tuple[PodRange, ...] = (),
        deny_with: DenyWith = DenyWith.DROP,
    ) -> None:
        self.store = Store() if store is None else store
        self.compiler = Compiler(
            self.store, is_local=is_local, with_pod_names=with_pod_names, known_ranges=known_ranges, deny_with=deny_with
        )
        self.builder = SnapshotBuilder()
        self._identities: dict[int, Identity] = {}
        self._addresses: dict[AddressKey, int] = {}
        self._tiers: dict[int, TierProgram] = {}
        self._programs: dict[int, Program] = {}
        self._endpoints: dict[AddressKey, Endpoint] = {}
        self._shadows: dict[AddressKey, Endpoint] = {}
        self._pod_names: dict[AddressKey, str] = {}

    def update(self) -> None:
        """Compile what changed in the store."""
        for delta in self.compiler.steps():
            self.apply(delta)

    def apply(self, delta: CompiledDelta) -> None:
        """Apply a delta to the builder, and to the values here."""
        self.builder.apply(delta)
        _merge(self._identities, delta.identities)
        _merge(self._addresses, {address: number or None for address, number in delta.addresses.items()})
        _merge(self._tiers, delta.tiers)
        _merge(self._programs, delta.programs)
        _merge(self._endpoints, delta.endpoints)
        _merge(self._shadows, delta.shadows)
        _merge(self._pod_names, {address: name or None for address, name in delta.pod_names.items()})

    def whole(self) -> CompiledDelta:
        """All values as one delta, for a builder that starts empty."""
        return CompiledDelta(
            identities=dict(self._identities),
            addresses=dict(self._addresses),
            tiers=dict(self._tiers),
            programs=dict(self._programs),
            endpoints=dict(self._endpoints),
            shadows=dict(self._shadows),
            pod_names=dict(self._pod_names),
        )

    def encoded(self, version: int = 1) -> bytes:
        """The bytes of the snapshot."""
        return self.builder.encoded(version=version, created_ns=0)

    def view(self, version: int = 1) -> SnapshotReader:
        """The snapshot."""
        return SnapshotReader(self.encoded(version))

    def meaning(self) -> Meaning:
        """What the values mean. Fails if a value refers to another one that is not there, or if a value is not in use."""
        selectors = self.compiler.selectors
        used_tiers = {tier for program in self._programs.values() for tier in program.tiers}
        assert used_tiers == self._tiers.keys()
        endpoints = (*self._endpoints.values(), *self._shadows.values())
        assert {number for endpoint in endpoints for number in endpoint} - {0} == self._programs.keys()
        assert set(self._addresses.values()) == self._identities.keys()
        used = {number for tier in self._tiers.values() for number, _tables in tier.selectors}
        assert used == selectors.keys()

        def tier_meaning(number: int) -> TierProgram:
            tier = self._tiers[number]
            by_value = sorted(((selectors[selector], tables) for selector, tables in tier.selectors), key=repr)
            return tier._replace(selectors=by_value)  # type: ignore[arg-type]  # values in place of numbers

        def program_meaning(number: int) -> tuple[object, ...] | None:
            if not number:
                return None
            program = self._programs[number]
            return program.isolated_by, program.is_rejected, *map(tier_meaning, program.tiers)

        return Meaning(
            identities={
                address: (
                    frozenset(selectors[selector] for selector in self._identities[number].selectors),
                    self._identities[number].named_ports,
                )
                for address, number in self._addresses.items()
            },
            programs={
                address: (program_meaning(endpoint.egress), program_meaning(endpoint.ingress))
                for address, endpoint in self._endpoints.items()
            },
            shadows={
                address: (program_meaning(endpoint.egress), program_meaning(endpoint.ingress))
                for address, endpoint in self._shadows.items()
            },
            pod_names=dict(self._pod_names),
        )


def _merge(present: dict[_Key, _Value], changes: Mapping[_Key, _Value | None]) -> None:
    for key, value in changes.items():
        if value is None:
            present.pop(key, None)
        else:
            present[key] = value
