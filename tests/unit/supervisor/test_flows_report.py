"""The answer to `netpolq flows` on the status socket."""

import asyncio
import json

from collections.abc import AsyncIterator

import pytest

from netpolq.flows.record import Flow, FlowEnd, FlowVerdict
from netpolq.flows.table import FlowTable
from netpolq.supervisor.flows_report import Losses, answer, decode, decode_head

START_S = 1_800_000_000.0


@pytest.fixture
def table() -> FlowTable:
    table = FlowTable("node-1", 4000, START_S)
    for number in range(1200):
        end = FlowEnd(f"10.0.{number >> 8}.{number & 255}", "shop", f"web-{number}")
        verdict = FlowVerdict.DENY if number % 2 else FlowVerdict.ACCEPT
        table.add(Flow(end, FlowEnd("10.1.0.1", "shop", "db"), "TCP", 80, verdict), START_S, START_S + 15 * (number // 600), 1)
    return table


async def portions_of(portions: AsyncIterator[bytes]) -> list[bytes]:
    return [portion async for portion in portions]


def answered(table: FlowTable, **query: str) -> bytes:
    return b"".join(asyncio.run(portions_of(answer(table, Losses(lost=7, damaged=3), tuple(query.items()), START_S + 20))))


def test_the_head_tells_what_the_agent_knows(table: FlowTable) -> None:
    head, records = decode(answered(table, after="now"))
    assert records == []
    assert (head.node, head.started_s, head.next, head.missed) == ("node-1", START_S, 1200, 0)
    assert (head.records, head.max_records, head.unrecorded, head.lost, head.dropped_early) == (1200, 4000, 0, 7, 0)
    assert head.damaged == 3


def test_since_gives_records_of_the_period_and_after_increments(table: FlowTable) -> None:
    assert len(decode(answered(table, since="3600"))[1]) == 1200
    assert len(decode(answered(table, since="10"))[1]) == 600
    assert len(decode(answered(table, since="3600", denied="true"))[1]) == 600
    assert [record.flow.source.pod for record in decode(answered(table, after="1197"))[1]] == ["web-1197", "web-1198", "web-1199"]
    assert len(decode(answered(table, after="0", pod="shop/web-11*"))[1]) == 111
    assert decode(answered(table, after="5000"))[1] == []


def test_an_answer_is_made_in_portions(table: FlowTable) -> None:
    portions = asyncio.run(portions_of(answer(table, Losses(), [("since", "3600")], START_S + 20)))
    assert len(portions) == 4
    assert all(portion.endswith(b"\n") for portion in portions)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({}, "either since or after is needed"),
        ({"since": "1", "after": "1"}, "either since or after is needed"),
        ({"since": "3601"}, "since: '3601' must be an integer from 0 to 3600"),
        ({"since": "-1"}, "since: '-1' must be"),
        ({"since": ""}, "since: '' must be"),
        ({"after": "soon"}, "after: 'soon' must be"),
        ({"after": "1", "pod": "web"}, "pod: 'web' must be"),
        ({"after": "1", "colour": "red"}, "colour: unknown"),
    ],
)
def test_a_wrong_query_is_refused_before_the_answer_begins(table: FlowTable, query: dict[str, str], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        answer(table, Losses(), tuple(query.items()), START_S)


def test_a_field_that_is_given_twice_is_refused(table: FlowTable) -> None:
    with pytest.raises(ValueError, match="each field may be given once"):
        answer(table, Losses(), [("since", "1"), ("since", "2")], START_S)


def test_a_head_of_a_newer_agent_is_read_and_of_another_document_not(table: FlowTable) -> None:
    line = answered(table, after="now").splitlines()[0]
    assert decode_head(json.dumps({**json.loads(line), "new": 1}).encode()) == decode_head(line)
    for wrong in (b"", b"[]", b"null", b"7", b"{}", json.dumps({**json.loads(line), "next": "x"}).encode()):
        with pytest.raises(ValueError, match="not an answer about flows"):
            decode_head(wrong)


def test_a_head_of_an_agent_that_counts_no_damaged_reads_is_read(table: FlowTable) -> None:
    fields = json.loads(answered(table, after="now").splitlines()[0])
    del fields["damaged"]
    assert decode_head(json.dumps(fields).encode()).damaged == 0
