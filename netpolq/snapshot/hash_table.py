"""A hash table of the snapshot builder: patched in place, and copied unchanged when a snapshot is published.

`netpolq.snapshot.layout` describes the format. The position of a key may depend on earlier contents; the result of a look-up does not.
"""

from struct import Struct
from zlib import crc32

_MAX_FILL = 0.6
"""The table grows above this. In a fuller table the look-up of an absent address is slow: it reads up to the next empty cell."""
_AFTER_GROWTH = 0.5
_MIN_FILL = 0.45
"""The table shrinks below this. Two addresses a pod at 20 bytes a cell take 89 bytes here, and 67 at the maximum fill."""
_AFTER_SHRINKING = 0.55
_MIN_SLOTS = 16
_EXTRA_CELLS = 8


class HashTable:
    """Maps keys of 16 bytes to integers other than 0. `cell`: the format of a key and its value."""

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
        """Return the value of a key, 0 if it has none."""
        return self._find(key)[1]

    def set(self, key: bytes, value: int) -> None:
        """Set the value of a key. The value 0 removes the key."""
        if not value:
            self._discard(key)
            return
        offset, present = self._find(key)
        if present == value:
            return
        if not present:
            if self._count >= self.slots * _MAX_FILL:
                self._resize(int((self._count + 1) / _AFTER_GROWTH))
                offset, _ = self._find(key)
            self._count += 1
            if offset + self._cell.size == len(self.cells):
                self.cells.extend(bytes(self._cell.size * _EXTRA_CELLS))
        self._cell.pack_into(self.cells, offset, key, value)
        self.is_touched = True

    def reserve(self, more: int) -> None:
        """Resize once for this many additional keys."""
        wanted = self._count + more
        if wanted > self.slots * _MAX_FILL:
            self._resize(int(wanted / _AFTER_SHRINKING))

    def _find(self, key: bytes) -> tuple[int, int]:
        """Return the byte offset and value of a key's cell, or the offset of the empty cell for it and 0."""
        cells, size, unpack = self.cells, self._cell.size, self._cell.unpack_from
        offset = (crc32(key) * self.slots >> 32) * size
        while True:
            found, value = unpack(cells, offset)
            if not value or found == key:
                return offset, value
            offset += size

    def _discard(self, key: bytes) -> None:
        offset, present = self._find(key)
        if not present:
            return
        cells, size = self.cells, self._cell.size
        hole = offset
        while True:
            # Each following cell without a gap that may lie in the hole moves there, so that no search ends before its key.
            offset += size
            other, value = self._cell.unpack_from(cells, offset)
            if not value:
                break
            if (crc32(other) * self.slots >> 32) * size <= hole:
                cells[hole : hole + size] = cells[offset : offset + size]
                hole = offset
        cells[hole : hole + size] = bytes(size)
        self._count -= 1
        self.is_touched = True
        if self._count < self.slots * _MIN_FILL and self.slots > _MIN_SLOTS:
            self._resize(int(self._count / _AFTER_SHRINKING))

    def _resize(self, slots: int) -> None:
        """Rehash all keys: about half a microsecond each, amortised over the changes until the next resize."""
        before, size = self.cells, self._cell.size
        self.slots = max(slots, _MIN_SLOTS)
        self.cells = cells = bytearray((self.slots + _EXTRA_CELLS) * size)
        self.is_touched = True
        slots, unpack, pack = self.slots, self._cell.unpack_from, self._cell.pack_into
        for key, value in self._cell.iter_unpack(before):
            if value:
                offset = (crc32(key) * slots >> 32) * size
                while unpack(cells, offset)[1]:
                    offset += size
                if offset + size == len(cells):
                    cells.extend(bytes(size * _EXTRA_CELLS))
                pack(cells, offset, key, value)
