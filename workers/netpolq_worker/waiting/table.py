"""The table of held packets: memory of a fixed size, which outlives the process that writes it.

The pool creates the memory, and the waiting process maps it after the fork. There is one writer at a time. The writer may be killed
between any two writes, and its replacement reads the table then. So a row counts from the write of its first byte on, which comes last,
and until that byte is 0 again. A packet is answered before its row is cleared: a second verdict on it has no effect.

The bytes are those of a process that reads packets of any sender. `HeldTable.read` believes none of them.
"""

import fcntl
import mmap
import os
import struct

from dataclasses import dataclass, replace

from netpolq.addresses import is_ipv4, packed_address
from netpolq_worker.worker.packet import WITH_PORTS, Flow, header_of

MAX_HELD = 4096
"""Maximum number of held packets."""

_HEADER_BYTES = 64
_NUMBER = struct.Struct("=Q")
_LAST_SEEN, _EVALUATED = 0, 8

_ROW = struct.Struct("=BBBxIIHHQ16s16s8x")
"""Whether the row is in use, ends, protocol, id, mark, ports, time of arrival, address keys. Padded, so that rows keep their alignment."""
_ENDS = (1, 2)
"""Bits of the source and of the destination."""

SIZE_BYTES = _HEADER_BYTES + MAX_HELD * _ROW.size

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class TableError(ValueError):
    """The bytes of a table are not those that a writer leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPacket:
    """A packet that waits. `mark`: its whole mark. `source`, `destination`: address keys, and the ports, as sent.

    `unknown`: the keys, of these two, that must become known. `arrived_ns`: monotonic.
    """

    packet_id: int
    mark: int
    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int
    unknown: tuple[bytes, ...]
    arrived_ns: int

    @property
    def flow(self) -> Flow:
        """The flow, as `netpolq_worker.worker.packet.parse` returned it."""
        return (
            packed_address(self.source),
            packed_address(self.destination),
            self.protocol,
            self.source_port,
            self.destination_port,
        )

    def get_payload(self) -> bytes:
        """A header with the same flow, for the packet log: the packet itself is only in the kernel."""
        return header_of(self.flow)


def make() -> int:
    """New, empty memory. The caller owns the descriptor. Raises `OSError` without free memory."""
    descriptor = os.memfd_create("netpolq-held-packets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, SIZE_BYTES)  # a hole that cannot be filled would end the writer by SIGBUS
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_shared(descriptor: int) -> mmap.mmap:
    """Map the memory, and close the descriptor. Raises `OSError`."""
    try:
        return mmap.mmap(descriptor, SIZE_BYTES)
    finally:
        os.close(descriptor)


class HeldTable:
    """The rows of a table, by number. `memory`: of `SIZE_BYTES`."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._memory = memory

    @property
    def last_seen(self) -> int:
        """Id of the last packet that is held, or answered; 0: none yet."""
        return self._number(_LAST_SEEN)

    @last_seen.setter
    def last_seen(self, packet_id: int) -> None:
        _NUMBER.pack_into(self._memory, _LAST_SEEN, packet_id)

    @property
    def evaluated(self) -> int:
        """Id of the packet that is being evaluated at present; 0: none."""
        return self._number(_EVALUATED)

    @evaluated.setter
    def evaluated(self, packet_id: int) -> None:
        _NUMBER.pack_into(self._memory, _EVALUATED, packet_id)

    def _number(self, offset: int) -> int:
        found: int = _NUMBER.unpack_from(self._memory, offset)[0]
        return found

    def write(self, row: int, packet: HeldPacket) -> None:
        """Write a packet to a row, which must be free, or hold the same packet with other unknown addresses."""
        start = _HEADER_BYTES + row * _ROW.size
        ends = sum(bit for bit, key in zip(_ENDS, (packet.source, packet.destination), strict=True) if key in packet.unknown)
        if self._memory[start]:
            self._memory[start + 1] = ends
            return
        _ROW.pack_into(
            self._memory,
            start,
            0,
            ends,
            packet.protocol,
            packet.packet_id,
            packet.mark,
            packet.source_port,
            packet.destination_port,
            packet.arrived_ns,
            packet.source,
            packet.destination,
        )
        self._memory[start] = 1

    def clear(self, row: int) -> None:
        """Free a row."""
        self._memory[_HEADER_BYTES + row * _ROW.size] = 0

    def reset(self) -> None:
        """Free all rows."""
        self._memory[:] = bytes(SIZE_BYTES)

    def read(self, now_ns: int) -> dict[int, HeldPacket]:
        """The packets by row, those with the lowest ids first. No packet arrives later than `now_ns`. Raises `TableError`."""
        found = {}
        for row in range(MAX_HELD):
            start = _HEADER_BYTES + row * _ROW.size
            if self._memory[start]:
                found[row] = _read_row(row, _ROW.unpack_from(self._memory, start), now_ns)
        if len({packet.packet_id for packet in found.values()}) < len(found):
            raise TableError("two rows have the same packet")
        return dict(sorted(found.items(), key=lambda item: item[1].packet_id))


def _read_row(row: int, fields: tuple[int, int, int, int, int, int, int, int, bytes, bytes], now_ns: int) -> HeldPacket:
    in_use, ends, protocol, packet_id, mark, source_port, destination_port, arrived_ns, source, destination = fields
    if in_use != 1 or not 1 <= ends <= sum(_ENDS) or not packet_id or is_ipv4(source) != is_ipv4(destination):
        raise TableError(f"row {row} is none that a writer leaves")
    if (source_port or destination_port) and protocol not in WITH_PORTS:
        raise TableError(f"row {row} has ports, and its protocol has none")
    unknown = tuple(dict.fromkeys(key for bit, key in zip(_ENDS, (source, destination), strict=True) if ends & bit))
    return HeldPacket(
        packet_id=packet_id,
        mark=mark,
        source=source,
        destination=destination,
        protocol=protocol,
        source_port=source_port,
        destination_port=destination_port,
        unknown=unknown,
        arrived_ns=min(arrived_ns, now_ns),
    )


def waiting_for(packet: HeldPacket, unknown: tuple[bytes, ...]) -> HeldPacket:
    """The same packet, with other unknown addresses."""
    return replace(packet, unknown=unknown)
