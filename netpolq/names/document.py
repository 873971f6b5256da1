"""JSON document with the pairs of a name table, which the next supervisor reads.

Times in it are those of the wall clock, since a monotonic clock begins again with each boot. So a clock that was set back would keep pairs
for too long: a document from the future is refused, and so is an expiry that no answer can have had.
"""

import math

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from netpolq.addresses import AddressKey, format_address, parse_address
from netpolq.names.table import MAX_PAIRS, MAX_TTL_S, Pair

_FORMAT = 1
_MAX_NAME = 253
"""Characters of a domain name as text, without the dot at its end. Source: RFC 1035 section 2.3.4: 255 bytes on the wire."""

_CLOCK_SLACK_S = 5.0
"""A clock that runs slightly fast is corrected in steps of less than this."""

MAX_DOCUMENT_BYTES = MAX_PAIRS * 512
"""A pair has at most 253 characters of name, twice 39 of address, a number, and punctuation."""


class KeptPair(NamedTuple):
    """A pair as the document has it. `expiry_s`: of the clock that the reader of the document uses."""

    name: str
    address: AddressKey
    pod: AddressKey
    expiry_s: float


def kept(pairs: Iterable[Pair]) -> list[KeptPair]:
    """The pairs as values, for another thread."""
    return [KeptPair(pair.name, pair.address, pair.pod, pair.expiry_s) for pair in pairs]


def encode(pairs: Iterable[KeptPair], *, now_s: float, wall_s: float) -> bytes:
    """The document. `now_s`: time of the clock of the expiries; `wall_s`: the same moment in seconds since 1970."""
    rows = [
        (pair.name, format_address(pair.address), format_address(pair.pod), round(pair.expiry_s - now_s + wall_s, 3))
        for pair in pairs
    ]
    return orjson.dumps({"format": _FORMAT, "written_s": round(wall_s, 3), "pairs": rows})


def decode(data: bytes, *, now_s: float, wall_s: float) -> list[KeptPair]:
    """The pairs in a document. Raises `ValueError` with the reason for bytes that `encode` never returns, or if the clock has gone back."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is no JSON document: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"it is not a document of format {_FORMAT}")
    written_s, rows = _seconds(document.get("written_s")), document.get("pairs")
    if written_s > wall_s + _CLOCK_SLACK_S:
        raise ValueError(f"it was written {written_s - wall_s:.0f} s in the future: the clock was set back")
    if not isinstance(rows, list) or len(rows) > MAX_PAIRS:
        raise ValueError(f"field pairs must be a list of at most {MAX_PAIRS} entries")
    latest_s = written_s + MAX_TTL_S + _CLOCK_SLACK_S
    return list(_pairs(rows, latest_s=latest_s, offset_s=now_s - wall_s))


def _pairs(rows: list[object], *, latest_s: float, offset_s: float) -> Iterator[KeptPair]:
    for row in rows:
        if not isinstance(row, list) or len(row) != 4:
            raise ValueError("an entry of pairs must have 4 values")
        name, address, pod, expiry = row
        if not (isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isascii()):
            raise ValueError("an entry of pairs has no valid name")
        if not (isinstance(address, str) and isinstance(pod, str)):
            raise ValueError("an entry of pairs has no valid address")
        expiry_s = _seconds(expiry)
        if expiry_s > latest_s:
            raise ValueError("an entry of pairs expires too late")
        yield KeptPair(name, parse_address(address), parse_address(pod), expiry_s + offset_s)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError("a time must be a number of seconds since 1970")
    return float(value)
