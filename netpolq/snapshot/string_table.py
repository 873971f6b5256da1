"""String table of the snapshot builder: reference-counted strings with stable ids."""

from array import array


class StringTable:
    """Names in use, with reference counts. A released name keeps its id until `collect_garbage`."""

    def __init__(self) -> None:
        self.is_touched = True
        self._numbers: dict[str, int] = {}
        self._uses: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._released: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def number(self, name: str) -> int:
        """The id of a name in use."""
        return self._numbers[name]

    def acquire(self, name: str) -> int:
        """Add a reference to a name. Returns its id."""
        self._uses[name] = self._uses.get(name, 0) + 1
        number = self._numbers.get(name)
        if number is None:
            if self._free:
                number = self._free.pop()
                self._names[number] = name
            else:
                number = len(self._names)
                self._names.append(name)
            self._numbers[name] = number
            self.is_touched = True
        return number

    def release(self, name: str) -> None:
        """Drop a reference to a name."""
        self._uses[name] -= 1
        if not self._uses[name]:
            self._released.add(name)

    def collect_garbage(self) -> None:
        """Free the ids of names without references."""
        for name in sorted(self._released):
            if not self._uses[name]:
                del self._uses[name]
                number = self._numbers.pop(name)
                self._names[number] = ""
                self._free.append(number)
                self.is_touched = True
        self._released.clear()

    def encoded(self) -> bytes:
        """The STRINGS section."""
        texts = [name.encode() for name in self._names]
        offsets = array("I", [0])
        for text in texts:
            offsets.append(offsets[-1] + len(text))
        return offsets.tobytes() + b"".join(texts)
