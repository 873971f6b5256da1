"""A writer of YAML with comments, for the few kinds of values that manifests have: maps, lists, texts and numbers.

PyYAML, which reads manifests, keeps no comments. Texts are quoted unless every reader of YAML 1.1 and 1.2 takes them for texts.
"""

import re

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from netpolq.logs import one_line

_PLAIN = re.compile(r"[A-Za-z][-A-Za-z0-9_./]*|[0-9]+(\.[0-9]+){3}/[0-9]+")
"""Words, and blocks of IPv4 addresses."""

_RESERVED = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Texts that some reader takes for something else, in lower case. Source: the types bool and null of YAML 1.1."""

_WIDTH = 120

Value = object
"""A map, a list, a text, a number, or one of these in `Commented`."""


class Commented(NamedTuple):
    """A value with comments: `before`: lines above it, `beside`: at the end of its line, for a text or a number."""

    value: Value
    before: tuple[str, ...] = ()
    beside: str = ""


def document(value: Mapping[str, Value], comments: Iterable[str] = ()) -> str:
    """Return a map as a document. `comments`: in front of it."""
    return "".join(f"{line}\n" for line in (*comment_lines(comments), *_map_lines(value)))


def comment_lines(texts: Iterable[str], indent: str = "") -> Iterator[str]:
    """Yield comments, each wrapped, with its further lines indented."""
    for text in texts:
        yield from _wrapped(one_line(text), indent)


def plain(value: Value) -> object:
    """Return a value without comments, for JSON."""
    match value:
        case Commented():
            return plain(value.value)
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case str() | int():
            return value
        case Sequence():
            return [plain(item) for item in value]
    raise TypeError(type(value).__name__)


def _wrapped(text: str, indent: str) -> Iterator[str]:
    line = ""
    for word in text.split(" "):
        if line and len(indent) + 2 + len(line) + 1 + len(word) > _WIDTH:
            yield f"{indent}# {line}"
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    yield f"{indent}# {line}".rstrip()


def _map_lines(value: Mapping[str, Value], indent: str = "") -> Iterator[str]:
    for key, item in value.items():
        inner = item if isinstance(item, Commented) else Commented(item)
        yield from comment_lines(inner.before, indent)
        yield from _entry(f"{indent}{_scalar(key)}:", inner, indent)


def _entry(head: str, item: Commented, indent: str) -> Iterator[str]:
    """Yield the lines of a key and its value. A list is indented like a map."""
    value = item.value
    if isinstance(value, str | int) or not value:
        beside = f"  # {one_line(item.beside)}" if item.beside else ""
        yield f"{head} {_scalar(value)}{beside}"
    else:
        yield head
        yield from _lines(value, f"{indent}  ")


def _lines(value: Value, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _map_lines(value, indent)
        return
    assert isinstance(value, Sequence)  # noqa: S101  # tells the type checker
    for item in value:
        inner = item if isinstance(item, Commented) else Commented(item)
        yield from comment_lines(inner.before, indent)
        if isinstance(inner.value, Mapping) and inner.value:
            first, *rest = _map_lines(inner.value, f"{indent}  ")
            yield f"{indent}- {first[len(indent) + 2 :]}"
            yield from rest
        else:
            beside = f"  # {one_line(inner.beside)}" if inner.beside else ""
            yield f"{indent}- {_scalar(inner.value)}{beside}"


def _scalar(value: Value) -> str:
    match value:
        case int():
            return str(value)
        case str():
            return value if _PLAIN.fullmatch(value) and value.lower() not in _RESERVED else _quoted(value)
        case Mapping():
            return "{}"
    return "[]"


def _quoted(text: str) -> str:
    """Return a text in double quotes, in ASCII."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(letter: str) -> str:
    """Source: YAML 1.2 section 5.7."""
    number = ord(letter)
    if letter in {'"', "\\"}:
        return f"\\{letter}"
    if 0x20 <= number < 0x7F:
        return letter
    return f"\\x{number:02x}" if number <= 0xFF else f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
