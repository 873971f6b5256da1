"""Parser of YAML text to plain values (dict, list, str, int, float, bool, None), with bounded memory, depth and time.

It uses the parser's events and no loader of PyYAML: those recurse in C as deep as the text nests (a line of brackets ends the
process), let aliases and merge keys multiply without bound, and read more into plain scalars than Kubernetes does (`1:20` as a number,
`2006-01-02` as a date).

Source: YAML 1.1 as kubectl's parser reads it: plain scalars have types (`yaml_scalars.py`); merge keys are applied; keys are always
strings. Of two equal keys the last is used, and both are reported: the API server refuses them.
"""

import re

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import yaml

from netpolq.sources.decode.fields import shown
from netpolq.sources.decode.yaml_scalars import plain_value

MAX_DEPTH = 200
MAX_VALUES = 4_000_000
"""Values of one document. A pod as the API server prints it has about 300."""

MAX_ALIASED_VALUES = 100_000
"""Values that aliases may repeat in one document."""

MAX_DUPLICATES = 100
"""Maximum number of duplicate keys reported for one document."""

_BREAKS = r"\n\r\x85\u2028\u2029"
_LINE_START = rf"(?:^|(?<=[{_BREAKS}]))"
_BREAK = re.compile(rf"\r\n|[{_BREAKS}]")
_BOUNDARY = re.compile(rf"{_LINE_START}(?:---(?=\s|\Z)|\.\.\.[ \t]*(?:#[^{_BREAKS}]*)?(?=[{_BREAKS}]|\Z))")
_INNER_BYTE_ORDER_MARK = re.compile(rf"{_LINE_START}\ufeff")
_NO_CONTENT = re.compile(rf"(?:[^\S{_BREAKS}]*(?:[#%][^{_BREAKS}]*)?(?:[{_BREAKS}]|\Z))*")
_TYPED_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))


class TextError(Exception):
    """A text or document that cannot be read. The message has the position."""


class Duplicate(NamedTuple):
    """A key that occurs twice in one mapping."""

    key: str
    message: str


class Document(NamedTuple):
    """A document of a stream. `number` is 1-based. `value` is the error if it is unreadable, and `text` is then its text.
    `duplicates`: keys that occur twice in one of its mappings; `text` is then set too.
    """

    number: int
    value: object
    duplicates: tuple[Duplicate, ...] = ()
    text: str = ""


def documents(text: str) -> Iterator[Document]:
    """The documents of a stream, one by one, so that one that cannot be read does not hide those after it.

    As in Kubernetes' own reader, a line that starts with `---` starts a document, at any position. So do the markers that only YAML
    has: `...`, and `---` after a line end other than a line feed.
    """
    number = line = 0
    for part, is_marked in _parts(text):
        # The text before the first marker is a document only if it has content.
        if is_marked or not _NO_CONTENT.fullmatch(part):
            read = 0
            for document in _documents_of(part, line, number):
                read += 1
                yield document
            number += max(read, 1)
        line += _breaks(part)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts that end where documents end, and whether each begins with `---`."""
    start, is_marked = 0, False
    for match in _BOUNDARY.finditer(text):
        yield text[start : match.start()], is_marked
        start, is_marked = match.start(), match[0] == "---"
        if not is_marked:
            start = match.end()  # a document after `...` needs no marker of its own
    yield text[start:], is_marked


def _breaks(part: str) -> int:
    return part.count("\n") if part.isascii() and "\r" not in part else sum(1 for _ in _BREAK.finditer(part))


def _documents_of(part: str, line: int, before: int) -> Iterator[Document]:
    """The documents of a part of a stream. `line`, `before`: lines and documents before it."""
    builder = _Builder(line)
    number = before
    try:
        if (mark := _INNER_BYTE_ORDER_MARK.search(part)) is not None:
            raise TextError(f"line {line + _breaks(part[: mark.start()]) + 1}: a byte order mark inside the file")
        for value, duplicates in builder.build(part):
            number += 1
            yield Document(number, value, duplicates, part if duplicates else "")
    except TextError as error:
        yield Document(number + 1, error, (), part)


class _Mark(Protocol):
    """A position in the text, 0-based."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class _Container:
    """A list or mapping that is still being filled."""

    __slots__ = ("anchor", "key", "key_mark", "merged", "merging", "size", "value")

    def __init__(self, value: "dict[str, object] | list[object]", anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.size = 1
        self.key: str | None = None
        self.key_mark: _Mark | None = None
        self.merging = False
        self.merged: list[dict[str, object]] = []


class _Builder:
    """The values of documents from their events. `first_line`: number of lines before its text, for messages."""

    def __init__(self, first_line: int) -> None:
        self._first_line = first_line
        self._begin()

    def _begin(self) -> None:
        self._open: list[_Container] = []
        self._anchors: dict[str, tuple[object, int]] = {}
        self._values = 0
        self._aliased_values = 0
        self._root: object = None
        self._duplicates: list[Duplicate] = []

    def build(self, text: str) -> Iterator[tuple[object, tuple[Duplicate, ...]]]:
        """The value of each document in the text, None for an empty one, and the keys that it has twice. Raises `TextError`."""
        try:
            for event in yaml.parse(text, Loader=yaml.CSafeLoader):
                try:
                    self._take(event)
                except TextError as error:
                    raise TextError(f"{self._where(event.start_mark)}{error}") from None
                if isinstance(event, yaml.DocumentEndEvent):
                    yield self._root, tuple(self._duplicates)
                    self._begin()
        except yaml.MarkedYAMLError as error:
            where = self._where(error.problem_mark or error.context_mark)
            raise TextError(f"{where}{error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise TextError(" ".join(str(error).split())) from error

    def _where(self, mark: _Mark | None) -> str:
        return "" if mark is None else f"line {self._first_line + mark.line + 1}, column {mark.column + 1}: "

    def _take(self, event: yaml.Event) -> None:
        match event:
            case yaml.ScalarEvent():
                self._take_scalar(event)
            case yaml.MappingStartEvent():
                self._start({}, event.anchor)
            case yaml.SequenceStartEvent():
                self._start([], event.anchor)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()
            case yaml.AliasEvent():
                self._take_alias(event.anchor)

    def _take_scalar(self, event: yaml.ScalarEvent) -> None:
        plain = event.implicit[0] and not event.style
        top = self._open[-1] if self._open else None
        if top is not None and top.key is None and isinstance(top.value, dict):
            top.key, top.key_mark = event.value, event.start_mark
            top.merging = plain and event.value == "<<"
            if event.anchor is not None:
                self._anchors[event.anchor] = (event.value, 1)
            return
        self._add(plain_value(event.value) if plain or event.tag in _TYPED_TAGS else event.value, 1, event.anchor)

    def _take_alias(self, anchor: str | None) -> None:
        if anchor is None or anchor not in self._anchors:
            raise TextError(f"alias *{anchor} has no anchor before it")
        value, size = self._anchors[anchor]
        self._aliased_values += size
        if self._aliased_values > MAX_ALIASED_VALUES:
            raise TextError(f"aliases repeat more than {MAX_ALIASED_VALUES} values")
        self._add(value, size, None)

    def _start(self, value: "dict[str, object] | list[object]", anchor: str | None) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise TextError(f"nested more than {MAX_DEPTH} levels deep")
        self._open.append(_Container(value, anchor))

    def _end(self) -> None:
        done = self._open.pop()
        value = done.value
        if done.merged and isinstance(value, dict):
            merged: dict[str, object] = {}
            for mapping in reversed(done.merged):
                merged.update(mapping)
            value = merged | value
        self._add(value, done.size, done.anchor)

    def _add(self, value: object, size: int, anchor: str | None) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise TextError(f"more than {MAX_VALUES} values")
        if anchor is not None:
            self._anchors[anchor] = (value, size)
        if not self._open:
            self._root = value
            return
        top = self._open[-1]
        top.size += size
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:
            raise TextError("a key must be a scalar")
        else:
            if top.merging:
                top.merged.extend(_mappings(value))
            else:
                if top.key in top.value and len(self._duplicates) < MAX_DUPLICATES:
                    self._duplicates.append(
                        Duplicate(top.key, f"{self._where(top.key_mark)}the key {shown(top.key)} occurs twice in one object")
                    )
                top.value[top.key] = value
            top.key = None


def _mappings(value: object) -> Iterator[dict[str, object]]:
    for mapping in value if isinstance(value, list) else [value]:
        if not isinstance(mapping, dict):
            raise TextError("a merge key must refer to a mapping or to a list of mappings")
        yield mapping
