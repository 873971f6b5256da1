"""Identity table of the snapshot builder: stable ids with contents that change.

An address refers to an id, and the id to its content. So a change for all pods of a peer class changes one cell, not the cells of
their addresses. Equal contents are stored once.
"""

from array import array
from collections.abc import Callable

from netpolq.snapshot.ir import Identity

_MAX_GARBAGE_CELLS = 1024
_ROOM = 1.2
"""Growth of the space for contents. The programs follow it, and are relocated when it grows."""


class _Content:
    """Offset of a content, and how many ids refer to it."""

    __slots__ = ("offset", "uses")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.uses = 1


class IdentityTable:
    """The IDENTITIES section and the first part of WORDS. `number_of_name`: of a named port in use."""

    def __init__(self, number_of_name: Callable[[str], int]) -> None:
        self.is_touched = True
        self.offsets = array("I", [0])
        """Word offset of each id's content; id 0 is reserved."""
        self.cells = array("I", [0])
        """The contents, with space for more."""
        if self.cells.itemsize != 4:  # pragma: no cover
            raise SystemError(f"array('I') has {self.cells.itemsize} bytes on this platform, not 4")
        self._number_of_name = number_of_name
        self._identities: list[Identity | None] = [None]
        self._contents: dict[Identity, _Content] = {}
        self._end = 1
        self._garbage = 0
        self._free_numbers: list[int] = []
        self._free_places: dict[int, list[int]] = {}

    def add(self, identity: Identity) -> int:
        """Allocate an id for an identity."""
        if self._free_numbers:
            number = self._free_numbers.pop()
        else:
            number = len(self.offsets)
            self.offsets.append(0)
            self._identities.append(None)
        self._put(number, identity)
        return number

    def change(self, number: int, identity: Identity) -> None:
        """Replace the content of an id."""
        before = self._identities[number]
        if before != identity:
            self._put(number, identity)
            if before is not None:
                self._drop(before)

    def discard(self, number: int) -> None:
        """Release an id. No address may refer to it."""
        before = self._identities[number]
        self._identities[number] = None
        self.offsets[number] = 0
        self._free_numbers.append(number)
        self.is_touched = True
        if before is not None:
            self._drop(before)

    def _put(self, number: int, identity: Identity) -> None:
        content = self._contents.get(identity)
        if content is None:
            content = self._contents[identity] = _Content(self._place(self._words(identity)))
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

    def _place(self, words: "array[int]") -> int:
        places = self._free_places.get(len(words))
        if places:
            offset = places.pop()
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
            self._free_places.setdefault(length, []).append(content.offset)
            self._garbage += length

    def collect_garbage(self) -> None:
        """Compact the contents if most of the space is garbage. Ids do not change."""
        if self._garbage <= max(_MAX_GARBAGE_CELLS, self._end - self._garbage):
            return
        live = list(self._contents)
        self.cells = array("I", [0])
        self._end, self._garbage, self._free_places = 1, 0, {}
        for identity in live:
            self._contents[identity].offset = self._place(self._words(identity))
        for number, present in enumerate(self._identities):
            if present is not None:
                self.offsets[number] = self._contents[present].offset
        self.is_touched = True
