"""The identity table of a snapshot builder: the content that each identity number refers to.

An address refers to a number, and the number refers to the words of the content. A change to all pods of a peer class therefore changes one
cell and not the cells of their addresses. Equal contents are stored once.
"""

from array import array

from netpolq.snapshot.ir import Identity
from netpolq.snapshot.string_table import StringTable

_MAX_GARBAGE_CELLS = 1024
_ROOM = 1.2
"""Growth factor of the content area."""


class _Content:
    """The offset of a content, and the number of identity numbers that refer to it."""

    __slots__ = ("offset", "uses")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.uses = 1


class IdentityTable:
    """The IDENTITIES and CONTENTS sections. Port names are strings of `strings`."""

    def __init__(self, strings: StringTable) -> None:
        self.is_touched = True
        self.offsets = array("I", [0])
        """Offset in the content area of each number's content; number 0 is reserved."""
        self.cells = array("I", [0])
        """The content area, including unused space at its end."""
        if self.cells.itemsize != 4:  # pragma: no cover
            raise SystemError(f"array('I') has {self.cells.itemsize} bytes on this platform, not 4")
        self._strings = strings
        self._identities: list[Identity | None] = [None]
        self._contents: dict[Identity, _Content] = {}
        self._end = 1
        self._garbage = 0
        self._free_offsets: dict[int, list[int]] = {}

    def set(self, number: int, identity: Identity | None) -> None:
        """Set the identity of a number (from 1). None: no address may refer to it any more."""
        missing = number + 1 - len(self.offsets)
        if missing > 0:
            self.offsets.extend([0] * missing)
            self._identities.extend([None] * missing)
        before = self._identities[number]
        if before == identity:
            return
        self._identities[number] = identity
        self.offsets[number] = 0 if identity is None else self._acquire(identity)
        if before is not None:
            self._release(before)
        self.is_touched = True

    def _acquire(self, identity: Identity) -> int:
        content = self._contents.get(identity)
        if content is None:
            for name, _protocol, _port in identity.named_ports:
                self._strings.acquire(name)
            content = self._contents[identity] = _Content(self._store(self._words(identity)))
        else:
            content.uses += 1
        return content.offset

    def _words(self, identity: Identity) -> "array[int]":
        words = array("I", [len(identity.selectors), *identity.selectors, len(identity.named_ports)])
        for name, protocol, port in identity.named_ports:
            words.append(self._strings.number(name))
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

    def _release(self, identity: Identity) -> None:
        content = self._contents[identity]
        content.uses -= 1
        if not content.uses:
            del self._contents[identity]
            for name, _protocol, _port in identity.named_ports:
                self._strings.release(name)
            length = 2 + len(identity.selectors) + 2 * len(identity.named_ports)
            self._free_offsets.setdefault(length, []).append(content.offset)
            self._garbage += length

    def collect_garbage(self) -> None:
        """Compact the contents if most of the area is garbage. Numbers stay."""
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
