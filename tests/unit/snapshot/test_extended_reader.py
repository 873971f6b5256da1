"""A reader for which addresses have more selectors than the snapshot says."""

import os

from netpolq.addresses import parse_address
from netpolq.enums import Action, Direction, Protocol, Tier, Verdict
from netpolq.snapshot import memfd
from netpolq.snapshot.extended_reader import ExtendedReader, map_extended
from netpolq.snapshot.ir import CompiledDelta, Endpoint, Identity, PortName, PortTable, Program, Rule, TierProgram
from netpolq.snapshot.reader import SnapshotReader
from tests.support.compiled import EVERY_PORT, encode

POD, NAMED, PLAIN, UNKNOWN = (parse_address(f"10.0.0.{number}") for number in range(1, 5))
BY_NAME = PortTable(None, (), (PortName(Protocol.TCP, "http", 0),))


def snapshot() -> bytes:
    """A pod that may connect to what selector 4 matches, and to the port http of what selector 6 matches."""
    rule = Rule(Tier.NETWORK_POLICY, 0, "x/p", Direction.EGRESS, 0, Action.ACCEPT, "")
    tier = TierProgram(Tier.NETWORK_POLICY, ("x/p",), (rule,), (), ((4, (EVERY_PORT,)), (6, (BY_NAME,))), None, None)
    return encode(
        CompiledDelta(
            identities={1: Identity((6, 9), (("http", Protocol.TCP, 80),)), 2: Identity((9,), ())},
            addresses={NAMED: 1, PLAIN: 2},
            tiers={1: tier},
            programs={1: Program(Direction.EGRESS, (1,), ("x/p",))},
            endpoints={POD: Endpoint(1, 0)},
        )
    )


def allowed(reader: SnapshotReader) -> set[tuple[bytes, int]]:
    return {
        (address, port)
        for address in (NAMED, PLAIN, UNKNOWN)
        for port in (80, 81)
        if reader.evaluate(POD, address, 6, port).verdict is Verdict.ACCEPT
    }


def test_an_address_has_more_selectors_beside_its_own_and_keeps_its_named_ports() -> None:
    every_port = {(address, port) for address in (NAMED, PLAIN, UNKNOWN) for port in (80, 81)}
    assert allowed(SnapshotReader(snapshot())) == {(NAMED, 80)}
    assert allowed(ExtendedReader(snapshot(), {})) == {(NAMED, 80)}
    assert allowed(ExtendedReader(snapshot(), {NAMED: {5}, PLAIN: {1, 10}, UNKNOWN: {2}})) == {(NAMED, 80)}
    assert allowed(ExtendedReader(snapshot(), {PLAIN: {6}, UNKNOWN: {6}})) == {(NAMED, 80)}, "without a named port"
    assert allowed(ExtendedReader(snapshot(), {PLAIN: {4, 6}})) == {(NAMED, 80), (PLAIN, 80), (PLAIN, 81)}
    assert allowed(ExtendedReader(snapshot(), {UNKNOWN: {4}})) == {(NAMED, 80), (UNKNOWN, 80), (UNKNOWN, 81)}
    assert allowed(ExtendedReader(snapshot(), {address: {4, 9} for address in (NAMED, PLAIN, UNKNOWN)})) == every_port


def test_a_memfd_is_mapped_and_released() -> None:
    descriptor = memfd.seal(snapshot())
    reader = map_extended(descriptor, {UNKNOWN: {4}})
    os.close(descriptor)
    assert reader.evaluate(POD, UNKNOWN, 6, 80).verdict is Verdict.ACCEPT
    reader.close()
