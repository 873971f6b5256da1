"""The limit of answers to denied packets."""

from netpolq_worker.worker.answer_limit import (
    ANSWERS_PER_S,
    BURST,
    CLIENT_ANSWERS_PER_S,
    CLIENT_BURST,
    MAX_CLIENTS,
    AnswerLimit,
)

S = 1_000_000_000
CLIENT, OTHER = b"\x0a\x00\x00\x02", b"\x0a\x00\x00\x03"


def taken(limit: AnswerLimit, clients: list[bytes], now_ns: int) -> int:
    return sum(limit.take(client, now_ns) for client in clients)


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(4) for number in range(first, first + count)]


def test_a_client_gets_its_burst_and_then_its_rate() -> None:
    limit = AnswerLimit()
    assert taken(limit, [CLIENT] * 1000, 5 * S) == CLIENT_BURST
    assert limit.take(OTHER, 5 * S), "another client has its own"
    step = S // CLIENT_ANSWERS_PER_S
    assert not limit.take(CLIENT, 5 * S + step - 1)
    assert taken(limit, [CLIENT] * 10, 5 * S + step) == 1
    assert taken(limit, [CLIENT] * 1000, 60 * S) == CLIENT_BURST, "the burst fills up again, and no further"


def test_all_clients_together_get_the_burst_and_then_the_rate() -> None:
    limit = AnswerLimit()
    assert taken(limit, numbered(5000), S) == BURST
    assert taken(limit, numbered(5000, 5000), S + S // ANSWERS_PER_S) == 1
    assert (
        sum(taken(limit, numbered(50, 10_000 + step * 50), 10 * S + step * S // 100) for step in range(100))
        <= BURST + ANSWERS_PER_S
    )


def test_a_refused_packet_costs_no_client_an_answer() -> None:
    limit = AnswerLimit()
    taken(limit, numbered(BURST), S)
    assert not limit.take(CLIENT, S)
    assert taken(limit, [CLIENT] * 100, 10 * S) == CLIENT_BURST


def test_the_table_is_bounded_whatever_the_clients() -> None:
    limit = AnswerLimit()
    for step in range(20_000):
        limit.take(step.to_bytes(16), S + step * S // ANSWERS_PER_S)
        assert len(limit) <= MAX_CLIENTS
    assert len(limit) > BURST
