"""Hash table of the snapshot builder: patched in place, and copied as it is when a snapshot is published.

See `netpolq.snapshot.layout` for the form. The position of a key may depend on earlier contents; a look-up does not.
"""

from struct import Struct
from zlib import crc32

_MAX_FILL = 0.6
"""Above this it grows. With fuller tables a look-up of an address without entry gets slow: it reads on to the next empty cell."""
_AFTER_GROWTH = 0.5
_EMPTIEST = 0.45
"""Below this it shrinks. Two addresses a pod at 20 bytes a cell are 89 bytes then, and 67 at the fullest."""
_AFTER_SHRINKING = 0.55
_MIN_SLOTS = 16
_SPARE_CELLS = 8


class HashTable:
    """Keys of 16 bytes, each with one integer that is not 0. `cell`: how both are packed."""

    def __init__(self, cell: Struct) -> None:
        self._cell = cell
        self._count = 0
        self.is_touched = True
        self.slots = 0
        self.cells = bytearray()
        self._resize(_MIN_SLOTS)

    def __len__(self) -> int:
        return self._count

    def get(self, key: bytes) -> int:
        """The value of a key, 0 if it has none."""
        return self._find(key)[1]

    def set(self, key: bytes, value: int) -> None:
        """Set the value of a key. 0 removes the key."""
        if not value:
            self._discard(key)
            return
        place, present = self._find(key)
        if present == value:
            return
        if not present:
            if self._count >= self.slots * _MAX_FILL:
                self._resize(int((self._count + 1) / _AFTER_GROWTH))
                place, _ = self._find(key)
            self._count += 1
            if place + self._cell.size == len(self.cells):
                self.cells.extend(bytes(self._cell.size * _SPARE_CELLS))
        self._cell.pack_into(self.cells, place, key, value)
        self.is_touched = True

    def clear(self) -> None:
        """Remove all keys."""
        if self._count:
            self._count = 0
            self.cells = bytearray()
            self._resize(_MIN_SLOTS)

    def reserve(self, more: int) -> None:
        """Grow once for this many more keys, rather than step by step."""
        wanted = self._count + more
        if wanted > self.slots * _MAX_FILL:
            self._resize(int(wanted / _AFTER_SHRINKING))

    def _find(self, key: bytes) -> tuple[int, int]:
        """Byte offset of a key's cell and its value; of the empty cell where it belongs, and 0."""
        cells, size, unpack = self.cells, self._cell.size, self._cell.unpack_from
        place = (crc32(key) * self.slots >> 32) * size
        while True:
            found, value = unpack(cells, place)
            if not value or found == key:
                return place, value
            place += size

    def _discard(self, key: bytes) -> None:
        place, present = self._find(key)
        if not present:
            return
        cells, size = self.cells, self._cell.size
        hole = place
        while True:
            # Keys that follow without a gap and may be stored in the free cell move there, so that no search ends before its key.
            place += size
            other, value = self._cell.unpack_from(cells, place)
            if not value:
                break
            if (crc32(other) * self.slots >> 32) * size <= hole:
                cells[hole : hole + size] = cells[place : place + size]
                hole = place
        cells[hole : hole + size] = bytes(size)
        self._count -= 1
        self.is_touched = True
        if self._count < self.slots * _EMPTIEST and self.slots > _MIN_SLOTS:
            self._resize(int(self._count / _AFTER_SHRINKING))

    def _resize(self, slots: int) -> None:
        """Rebuild the table: about half a microsecond a key, amortised over the changes until the next time."""
        before, size = self.cells, self._cell.size
        self.slots = max(slots, _MIN_SLOTS)
        self.cells = cells = bytearray((self.slots + _SPARE_CELLS) * size)
        self.is_touched = True
        slots, unpack, pack = self.slots, self._cell.unpack_from, self._cell.pack_into
        for key, value in self._cell.iter_unpack(before):
            if value:
                place = (crc32(key) * slots >> 32) * size
                while unpack(cells, place)[1]:
                    place += size
                if place + size == len(cells):
                    cells.extend(bytes(size * _SPARE_CELLS))
                pack(cells, place, key, value)
