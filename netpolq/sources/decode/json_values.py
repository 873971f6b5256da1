"""Parser of JSON text: one value, or several in a row as kubectl reads them (`jq -c`, one `kubectl get -o json` after another).

orjson validates the JSON, and is fast. It silently uses the last of two equal keys, so the standard library reads the text again to find
them.
"""

import json
import re

from collections.abc import Iterator

import orjson

from netpolq.sources.decode.fields import shown
from netpolq.sources.decode.yaml_values import MAX_DUPLICATES, Document, Duplicate, TextError

_SPACE = re.compile(r"[ \t\r\n]*")


def json_documents(text: str) -> Iterator[Document]:
    """The values of a text, as documents. Raises `TextError` at once if not all of it is JSON."""
    problem: TextError | None = None
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = TextError(f"line {error.lineno}, column {error.colno}: {error.msg}")
    try:
        values = list(_values(text))
    except (ValueError, RecursionError) as error:
        raise problem or TextError(f"nested too deep, or a number too long ({type(error).__name__})") from error
    if problem is not None and len(values) < 2:
        raise problem
    return (
        Document(number, value, tuple(duplicates), text if duplicates else "")
        for number, (value, duplicates) in enumerate(values, 1)
    )


def _values(text: str) -> Iterator[tuple[object, list[Duplicate]]]:
    duplicates: list[Duplicate] = []

    def keep(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for key, _value in pairs:
                if key in seen and len(duplicates) < MAX_DUPLICATES:
                    duplicates.append(Duplicate(key, f"the key {shown(key)} occurs twice in one object"))
                seen.add(key)
        return found

    decoder = json.JSONDecoder(object_pairs_hook=keep, parse_constant=_refuse)
    position = _end_of_space(text, 0)
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        yield value, duplicates.copy()
        duplicates.clear()
        position = _end_of_space(text, position)


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _end_of_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match is not None else position
