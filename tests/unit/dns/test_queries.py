"""The open queries: what matches, for how long, and how many there are."""

import pytest

from netpolq.addresses import parse_address
from netpolq_worker.dns.message import Question
from netpolq_worker.dns.queries import EXPIRY_NS, MAX_QUERIES, MAX_QUERIES_OF_POD, REPEAT_NS, OpenQueries
from netpolq_worker.dns.transport import Connection
from netpolq_worker.worker.packet import TCP, UDP
from tests.support.dns_messages import OTHER_POD, POD, SERVER, STRANGER

CONNECTION = Connection(parse_address(POD), 40_000, parse_address(SERVER), UDP)
QUESTION = Question(7, (b"www", b"example", b"com", b""), 1)
NOW = 5_000_000_000


def with_query() -> OpenQueries:
    queries = OpenQueries()
    queries.note(CONNECTION, QUESTION, NOW)
    return queries


def test_a_query_is_open_until_it_expires() -> None:
    assert with_query().take(CONNECTION, QUESTION, NOW + EXPIRY_NS - 1)
    assert not with_query().take(CONNECTION, QUESTION, NOW + EXPIRY_NS)
    assert with_query().has(CONNECTION, QUESTION, NOW + EXPIRY_NS - 1)
    assert not with_query().has(CONNECTION, QUESTION, NOW + EXPIRY_NS)


def test_copies_of_a_response_match_for_a_moment() -> None:
    queries = with_query()
    assert queries.take(CONNECTION, QUESTION, NOW + 5)
    assert queries.take(CONNECTION, QUESTION, NOW + 4 + REPEAT_NS)
    assert not queries.take(CONNECTION, QUESTION, NOW + 4 + 2 * REPEAT_NS)


def test_a_copy_prolongs_nothing_beyond_the_expiry() -> None:
    queries = with_query()
    assert queries.take(CONNECTION, QUESTION, NOW + EXPIRY_NS - 1)
    assert not queries.take(CONNECTION, QUESTION, NOW + EXPIRY_NS)


@pytest.mark.parametrize(
    ("connection", "question"),
    [
        pytest.param(CONNECTION._replace(pod=parse_address(OTHER_POD)), QUESTION, id="another pod"),
        pytest.param(CONNECTION._replace(pod_port=40_001), QUESTION, id="another port"),
        pytest.param(CONNECTION._replace(server=parse_address(STRANGER)), QUESTION, id="another server"),
        pytest.param(CONNECTION._replace(protocol=TCP), QUESTION, id="another protocol"),
        pytest.param(CONNECTION, QUESTION._replace(message_id=8), id="another id"),
        pytest.param(CONNECTION, QUESTION._replace(name=(b"evil", b"com", b"")), id="another name"),
        pytest.param(CONNECTION, QUESTION._replace(record_type=28), id="another type"),
    ],
)
def test_a_response_that_differs_in_anything_matches_nothing(connection: Connection, question: Question) -> None:
    assert not with_query().take(connection, question, NOW)


def test_queries_are_bounded_for_each_pod_and_in_all() -> None:
    queries = with_query()
    for number in range(MAX_QUERIES_OF_POD):
        queries.note(CONNECTION._replace(pod_port=number), QUESTION, NOW)
    assert len(queries) == MAX_QUERIES_OF_POD
    assert not queries.take(CONNECTION, QUESTION, NOW), "the oldest has made room"
    for number in range(MAX_QUERIES):
        queries.note(CONNECTION._replace(pod=number.to_bytes(16, "big")), QUESTION, NOW)
    assert len(queries) == MAX_QUERIES
