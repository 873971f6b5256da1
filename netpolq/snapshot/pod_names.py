"""The pod names of a snapshot builder, by address; used for the packet log only."""

from netpolq.snapshot.hash_table import HashTable
from netpolq.snapshot.layout import NAME_LENGTH, POD_NAME_CELL

_MAX_GARBAGE_BYTES = 4096


class PodNames:
    """The POD_NAMES and NAMES sections."""

    def __init__(self) -> None:
        self.table = HashTable(POD_NAME_CELL)
        self.texts = bytearray()
        self._garbage = 0

    def set(self, address: bytes, name: str) -> None:
        """Set the pod name of an address; the empty name removes it."""
        before = self.table.get(address)
        text = NAME_LENGTH.pack(len(name.encode())) + name.encode()
        if before:
            if name and self.texts.startswith(text, before - 1):
                return
            self._garbage += len(self._text(before))
        if name:
            self.table.set(address, len(self.texts) + 1)
            self.texts += text
        else:
            self.table.set(address, 0)

    def _text(self, value: int) -> bytes:
        (length,) = NAME_LENGTH.unpack_from(self.texts, value - 1)
        return bytes(self.texts[value - 1 : value - 1 + NAME_LENGTH.size + length])

    def collect_garbage(self) -> None:
        """Compact the names if most of the text area is garbage."""
        if self._garbage <= max(_MAX_GARBAGE_BYTES, len(self.texts) // 2):
            return
        texts = bytearray()
        for key, value in POD_NAME_CELL.iter_unpack(bytes(self.table.cells)):
            if value:
                self.table.set(key, len(texts) + 1)
                texts += self._text(value)
        self.texts = texts
        self._garbage = 0
