"""A snapshot reader for which some addresses have more selectors than the snapshot says. For evaluations outside the packet path."""

from array import array
from collections.abc import Iterable, Mapping
from mmap import mmap

from netpolq.addresses import AddressKey
from netpolq.snapshot.memfd import map_sealed
from netpolq.snapshot.reader import SnapshotReader


class ExtendedReader(SnapshotReader):
    """`more_selectors`: numbers of selectors by address, which must be in use in the snapshot. The snapshot itself stays as it is."""

    def __init__(
        self, buffer: bytes | mmap, more_selectors: Mapping[AddressKey, Iterable[int]], *, is_validated: bool = False
    ) -> None:
        super().__init__(buffer, is_validated=is_validated)
        contents = array("I", self._contents)
        self._extended: dict[bytes, int] = {}
        for address, numbers in more_selectors.items():
            identity = super().identity(address)
            selectors, ports = array("I"), array("I", [0])
            if identity:
                ports_at = identity + 1 + contents[identity]
                selectors = contents[identity + 1 : ports_at]
                ports = contents[ports_at : ports_at + 1 + 2 * contents[ports_at]]
            extended = sorted({*selectors, *numbers})
            self._extended[address] = len(contents)
            contents.extend([len(extended), *extended, *ports])
        self._contents.release()
        self._contents = memoryview(contents)

    def identity(self, address: bytes) -> int:
        """See `SnapshotReader.identity`."""
        return self._extended.get(address) or super().identity(address)


def map_extended(descriptor: int, more_selectors: Mapping[AddressKey, Iterable[int]]) -> ExtendedReader:
    """Map a sealed memfd like `netpolq.snapshot.memfd.map_trusted`. Raises `SnapshotError`."""
    return ExtendedReader(map_sealed(descriptor), more_selectors, is_validated=True)
