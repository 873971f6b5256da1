"""The string table of a snapshot builder: reference-counted strings, each with an id that stays while the string is in use."""

from array import array

from netpolq.snapshot.id_allocator import IdAllocator


class StringTable:
    """The strings in use. A released string keeps its id until `collect_garbage`, so no id changes its meaning during an update."""

    def __init__(self) -> None:
        self.is_touched = True
        self._numbers: dict[str, int] = {}
        self._uses: dict[str, int] = {}
        self._names: list[str] = []
        self._ids = IdAllocator()
        self._released: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def number(self, name: str) -> int:
        """Return the id of a string in use."""
        return self._numbers[name]

    def acquire(self, name: str) -> int:
        """Add a reference to a string. Returns its id."""
        self._uses[name] = self._uses.get(name, 0) + 1
        number = self._numbers.get(name)
        if number is None:
            number = self._ids.allocate()
            if number == len(self._names):
                self._names.append(name)
            else:
                self._names[number] = name
            self._numbers[name] = number
            self.is_touched = True
        return number

    def release(self, name: str) -> None:
        """Remove a reference to a string."""
        self._uses[name] -= 1
        if not self._uses[name]:
            self._released.add(name)

    def collect_garbage(self) -> None:
        """Free the ids of strings without references."""
        for name in sorted(self._released):
            if not self._uses[name]:
                del self._uses[name]
                number = self._numbers.pop(name)
                self._names[number] = ""
                self._ids.free(number)
                self.is_touched = True
        self._released.clear()

    def encoded(self) -> bytes:
        """Return the bytes of the STRINGS section."""
        texts = [name.encode() for name in self._names]
        offsets = array("I", [0])
        for text in texts:
            offsets.append(offsets[-1] + len(text))
        return offsets.tobytes() + b"".join(texts)
