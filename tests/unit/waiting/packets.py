"""Held packets for tests."""

from netpolq.addresses import parse_address
from netpolq.enums import Protocol
from netpolq_worker.waiting.table import HeldPacket

POD = "10.0.0.1"


def held(
    packet_id: int,
    source: str = "10.1.0.1",
    *,
    destination: str = POD,
    unknown: tuple[str, ...] | None = None,
    arrived_ns: int = 0,
    mark: int = 0x10,
) -> HeldPacket:
    """A TCP packet that waits for its source, unless `unknown` names other addresses."""
    return HeldPacket(
        packet_id=packet_id,
        mark=mark,
        source=parse_address(source),
        destination=parse_address(destination),
        protocol=Protocol.TCP,
        source_port=40000,
        destination_port=80,
        unknown=tuple(map(parse_address, (source,) if unknown is None else unknown)),
        arrived_ns=arrived_ns,
    )
