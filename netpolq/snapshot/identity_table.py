"""The identity table of a snapshot builder: stable identity ids, and the content that each id refers to.

An address refers to an id, and the id refers to the u32s of the content. A change to all pods of a peer class therefore changes one cell
and not the cells of their addresses. Equal contents are stored once.
"""

from array import array
from collections.abc import Callable

from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.ir import Identity

_MAX_GARBAGE_CELLS = 1024
_ROOM = 1.2
"""Growth factor of the content area. Programs lie behind the area and are relocated when it grows."""


class _Content:
    """The offset of a content, and the number of ids that refer to it."""

    __slots__ = ("offset", "uses")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.uses = 1


class IdentityTable:
    """The IDENTITIES section and the first part of WORDS. `number_of_name` returns the string id of a port name in use."""

    def __init__(self, number_of_name: Callable[[str], int]) -> None:
        self.is_touched = True
        self.offsets = array("I", [0])
        """Word offset of each id's content; id 0 is reserved."""
        self.cells = array("I", [0])
        """The content area, including unused space at its end."""
        if self.cells.itemsize != 4:  # pragma: no cover
            raise SystemError(f"array('I') has {self.cells.itemsize} bytes on this platform, not 4")
        self._number_of_name = number_of_name
        self._identities: list[Identity | None] = [None]
        self._contents: dict[Identity, _Content] = {}
        self._end = 1
        self._garbage = 0
        self._ids = IdAllocator(first=1)
        self._free_offsets: dict[int, list[int]] = {}

    def add(self, identity: Identity) -> int:
        """Allocate an id for an identity and return it."""
        number = self._ids.allocate()
        if number == len(self.offsets):
            self.offsets.append(0)
            self._identities.append(None)
        self._put(number, identity)
        return number

    def change(self, number: int, identity: Identity) -> None:
        """Replace the identity of an id."""
        before = self._identities[number]
        if before != identity:
            self._put(number, identity)
            if before is not None:
                self._drop(before)

    def discard(self, number: int) -> None:
        """Free an id. No address may refer to it."""
        before = self._identities[number]
        self._identities[number] = None
        self.offsets[number] = 0
        self._ids.free(number)
        self.is_touched = True
        if before is not None:
            self._drop(before)

    def _put(self, number: int, identity: Identity) -> None:
        content = self._contents.get(identity)
        if content is None:
            content = self._contents[identity] = _Content(self._store(self._words(identity)))
        else:
            content.uses += 1
        self._identities[number] = identity
        self.offsets[number] = content.offset
        self.is_touched = True

    def _words(self, identity: Identity) -> "array[int]":
        words = array("I", [len(identity.selectors), *identity.selectors, len(identity.named_ports)])
        for name, protocol, port in identity.named_ports:
            words.append(self._number_of_name(name))
            words.append(protocol << 16 | port)
        return words

    def _store(self, words: "array[int]") -> int:
        free = self._free_offsets.get(len(words))
        if free:
            offset = free.pop()
            self._garbage -= len(words)
        else:
            offset = self._end
            self._end += len(words)
            if self._end > len(self.cells):
                self.cells.frombytes(bytes(4 * (int(self._end * _ROOM) - len(self.cells) + 1)))
        self.cells[offset : offset + len(words)] = words
        return offset

    def _drop(self, identity: Identity) -> None:
        content = self._contents[identity]
        content.uses -= 1
        if not content.uses:
            del self._contents[identity]
            length = 2 + len(identity.selectors) + 2 * len(identity.named_ports)
            self._free_offsets.setdefault(length, []).append(content.offset)
            self._garbage += length

    def collect_garbage(self) -> None:
        """Compact the contents if most of the area is garbage. Ids stay."""
        if self._garbage <= max(_MAX_GARBAGE_CELLS, self._end - self._garbage):
            return
        live = list(self._contents)
        self.cells = array("I", [0])
        self._end, self._garbage, self._free_offsets = 1, 0, {}
        for identity in live:
            self._contents[identity].offset = self._store(self._words(identity))
        for number, present in enumerate(self._identities):
            if present is not None:
                self.offsets[number] = self._contents[present].offset
        self.is_touched = True
