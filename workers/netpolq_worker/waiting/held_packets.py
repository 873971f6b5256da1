"""The held packets, by id, age and unknown address: an index over the table, and the bounds of what may wait. Pure: no kernel, no clock."""

from collections import OrderedDict
from collections.abc import Collection, Iterator

from netpolq_worker.waiting.table import MAX_HELD, HeldPacket, HeldTable, TableError

MAX_HELD_OF_ADDRESS = 16
"""Maximum number of packets that wait for one address. So what is sent to the addresses of a /24 displaces no packet that waits for another
address."""


class HeldPackets:
    """All packets that wait. Each operation takes a time that does not depend on their number.

    `is_intact`: False if the table could not be read; it is empty then, and its packets are lost in the kernel's queue.
    """

    def __init__(self, table: HeldTable, now_ns: int) -> None:
        """Index what the table has. `now_ns`: monotonic."""
        self._table = table
        self._packets: OrderedDict[int, HeldPacket] = OrderedDict()  # the oldest first
        self._of_address: dict[bytes, dict[int, None]] = {}
        self._rows: dict[int, int] = {}
        try:
            found = table.read(now_ns)
            self.is_intact = True
        except TableError:
            found = {}
            self.is_intact = False
            table.reset()
        self._free = [row for row in reversed(range(MAX_HELD)) if row not in found]
        for row, packet in found.items():
            self._rows[packet.packet_id] = row
            self._index(packet)

    def __len__(self) -> int:
        return len(self._packets)

    def __iter__(self) -> Iterator[HeldPacket]:
        """All packets, the oldest first. They may be removed meanwhile."""
        return iter(tuple(self._packets.values()))

    def get(self, packet_id: int) -> HeldPacket | None:
        """A packet by id."""
        return self._packets.get(packet_id)

    def oldest(self) -> HeldPacket | None:
        """The packet that has waited longest."""
        return next(iter(self._packets.values()), None)

    def waiting_for(self, addresses: Collection[bytes] | None) -> list[HeldPacket]:
        """The packets that wait for one of these addresses, the oldest first. None: all packets."""
        if addresses is None:
            return list(self)
        found = {packet_id for key in addresses for packet_id in self._of_address.get(key, ())}
        return [self._packets[packet_id] for packet_id in sorted(found)]

    def displaced_by(self, unknown: tuple[bytes, ...]) -> list[HeldPacket]:
        """The packets that must leave before another one with these unknown addresses is added."""
        full = [self._of_address[key] for key in unknown if len(self._of_address.get(key, ())) >= MAX_HELD_OF_ADDRESS]
        leaving = dict.fromkeys(next(iter(ids)) for ids in full)
        if not leaving and not self._free:
            return [next(iter(self._packets.values()))]
        return [self._packets[packet_id] for packet_id in leaving]

    def add(self, packet: HeldPacket) -> None:
        """Hold a packet. What it displaces must have been removed."""
        row = self._free.pop()
        self._table.write(row, packet)
        self._rows[packet.packet_id] = row
        self._index(packet)

    def update(self, packet: HeldPacket) -> None:
        """Hold a packet, which is held already, for other unknown addresses."""
        self._unindex(self._packets[packet.packet_id])
        self._table.write(self._rows[packet.packet_id], packet)
        self._packets[packet.packet_id] = packet
        self._index_addresses(packet)

    def remove(self, packet_id: int) -> None:
        """Remove a packet, which has been answered."""
        row = self._rows.pop(packet_id)
        self._table.clear(row)
        self._free.append(row)
        self._unindex(self._packets.pop(packet_id))

    def _index(self, packet: HeldPacket) -> None:
        self._packets[packet.packet_id] = packet
        self._index_addresses(packet)

    def _index_addresses(self, packet: HeldPacket) -> None:
        for key in packet.unknown:
            self._of_address.setdefault(key, {})[packet.packet_id] = None

    def _unindex(self, packet: HeldPacket) -> None:
        for key in packet.unknown:
            ids = self._of_address[key]
            del ids[packet.packet_id]
            if not ids:
                del self._of_address[key]
