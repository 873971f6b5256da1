"""An allocator of small integer ids: freed ids are given out again before new ones."""


class IdAllocator:
    """Gives out the ids `first`, `first` + 1, and so on. The id that was freed last is reused first."""

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._free: list[int] = []

    def allocate(self) -> int:
        """Return an id that is not in use."""
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def free(self, number: int) -> None:
        """Make an id available again."""
        self._free.append(number)
