"""Flows as `netpolq flows` reads them: JSON lines that the supervisor serves at GET /flows on the status socket.

The first line tells what the agent knows of its records (`FlowsHead`). Each other line is a record (`netpolq.flows.record`). The query has
the fields of `FlowFilter`, and one of:

    since   seconds back from now: the records of windows, whole
    after   a number: what was counted after it, in order; the next one is in the head. `now`: the head alone.
"""

import asyncio

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import islice
from typing import Any, NamedTuple

import orjson

from netpolq.flows import record
from netpolq.flows.filter import FlowFilter
from netpolq.flows.record import FlowRecord
from netpolq.flows.table import HISTORY_S, FlowTable

FLOWS_PATH = "/flows"

_LINES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowsHead:
    """The first line. `started_s`: when this table was made, Unix time; numbers count from there. `next`: pass it as `after`. `missed`:
    increments after the number that are no longer kept. `unrecorded`: connections without a record since the agent's supervisor has
    started; `lost`: those that workers had no room for; `dropped_early`: records that were dropped before their hour was over; `damaged`:
    reads of what workers have recorded that failed; `traffic_missed`: connections that have ended without their packets and bytes being
    read.
    """

    node: str
    started_s: float
    next: int
    missed: int
    records: int
    max_records: int
    unrecorded: int
    lost: int
    dropped_early: int
    # Agents of older versions do not send what follows.
    damaged: int = 0
    traffic_missed: int = 0


class Losses(NamedTuple):
    """What the table does not know: fields of `FlowsHead`."""

    lost: int = 0
    damaged: int = 0
    traffic_missed: int = 0


def answer(table: FlowTable, losses: Losses, query: Sequence[tuple[str, str]], now_s: float) -> AsyncIterator[bytes]:
    """The lines of the answer, in portions. `now_s`: Unix time. Raises `ValueError` for a query that is wrong."""
    filters = dict(query)
    if len(filters) < len(query):
        raise ValueError("each field may be given once")
    since, after = filters.pop("since", None), filters.pop("after", None)
    wanted = FlowFilter.from_query(filters)
    if (since is None) == (after is None):
        raise ValueError("either since or after is needed")
    missed = 0
    if after is not None:
        number = table.last_number if after == "now" else _number(after, "after", 1 << 63)
        missed, records = table.after(number)
    else:
        records = table.since(now_s - _number(since or "", "since", HISTORY_S))
    head = FlowsHead(
        node=table.node,
        started_s=table.started_s,
        next=table.last_number,
        missed=missed,
        records=table.records,
        max_records=table.max_records,
        unrecorded=table.unrecorded,
        dropped_early=table.dropped_early,
        **losses._asdict(),
    )
    return _portions(head, (found for found in records if wanted.matches(found.flow)))


async def _portions(head: FlowsHead, records: Iterator[FlowRecord]) -> AsyncIterator[bytes]:
    yield orjson.dumps(asdict(head)) + b"\n"
    while portion := b"".join(record.encode(found) + b"\n" for found in islice(records, _LINES_AT_ONCE)):
        yield portion
        await asyncio.sleep(0)  # other tasks have their turn


def _number(text: str, name: str, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise ValueError(f"{name}: {text[:40]!r} must be an integer from 0 to {most}")
    return number


def decode(body: bytes) -> tuple[FlowsHead, list[FlowRecord]]:
    """The head and the records of an answer. Raises `ValueError`."""
    head, *lines = body.splitlines() or [b""]
    return decode_head(head), [record.decode(line) for line in lines]


def decode_head(line: bytes) -> FlowsHead:
    """The first line of an answer. Fields that this version does not know are ignored. Raises `ValueError`."""
    try:
        found: dict[str, Any] = orjson.loads(line)
        head = FlowsHead(
            **{field.name: found[field.name] for field in fields(FlowsHead) if field.name in found or field.default is MISSING}
        )
    except (TypeError, KeyError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not an answer about flows: {error}") from error
    for field in fields(FlowsHead):
        value = getattr(head, field.name)
        if isinstance(value, bool) or not isinstance(value, str if field.name == "node" else (int, float)):
            raise ValueError(f"not an answer about flows: {field.name} is {value!r}")
    return head
