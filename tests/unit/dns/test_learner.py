"""The core of the DNS reader, packet by packet: what goes on when, and what the supervisor is told."""

from collections.abc import Iterable

import pytest

from netpolq.addresses import parse_address
from netpolq.enums import PacketMark
from netpolq.ipc.channel import Answer, AnswersInForce, Resolvers
from netpolq_worker.dns.held import MAX_HELD, MAX_WAIT_NS, Move
from netpolq_worker.dns.learner import Effect, Learner
from netpolq_worker.dns.outcomes import MessageKind, Outcome
from netpolq_worker.dns.transport import ACK, FIN, SYN
from tests.support import dns_messages
from tests.support.dns_messages import (
    OTHER_POD,
    POD,
    POD6,
    POD_PORT,
    SERVER,
    SERVER6,
    STRANGER,
    answered,
    query,
    records,
    response,
    udp,
    udp_query,
    udp_response,
    with_length,
)

MASK, LOWEST = 0x00700000, 0x00100000
OTHER_BITS = 0x81000001
NAMES = OTHER_BITS | PacketMark.PENDING_NAMES * LOWEST
ORIGINAL = OTHER_BITS | PacketMark.PENDING_ORIGINAL * LOWEST
REPLY = OTHER_BITS | PacketMark.PENDING_REPLY * LOWEST
WORKERS = range(100, 104)
FIRST = 1000
ADDRESS = parse_address("192.0.2.1")
QUERY, RESPONSE = MessageKind.QUERY, MessageKind.RESPONSE


class Reader:
    """A learner with packets numbered from 1, and a clock."""

    def __init__(self) -> None:
        self.learner = Learner(FIRST, WORKERS, MASK, min_ttl_s=0)
        self.learner.set_resolvers(Resolvers((parse_address(SERVER), parse_address(SERVER6))))
        self.now_ns = 1
        self.packets = 0

    def receive(self, packet: bytes) -> list[Effect]:
        self.packets += 1
        return self.learner.receive(self.packets, NAMES, packet, self.now_ns)

    def in_force(self, number: int) -> list[Move]:
        return self.learner.on_in_force(AnswersInForce(number), self.now_ns)

    def later(self, wait_ns: int) -> list[Move]:
        self.now_ns += wait_ns
        return self.learner.expire(self.now_ns)

    @property
    def counts(self) -> dict[tuple[MessageKind, Outcome], int]:
        return self.learner.tally.messages

    def ask(self, name: str = "www.example.com.", message_id: int = 7) -> bytes:
        asked = query(name, message_id=message_id)
        (move,) = self.receive(udp_query(asked))
        assert isinstance(move, Move)
        assert move.mark == ORIGINAL
        return asked


@pytest.fixture
def reader() -> Reader:
    return Reader()


def ids(effects: Iterable[Effect]) -> list[int]:
    """The packets that go on."""
    return [effect.packet_id for effect in effects if isinstance(effect, Move)]


def answers(effects: Iterable[Effect]) -> list[Answer]:
    return [effect for effect in effects if isinstance(effect, Answer)]


# --- queries and responses over UDP ---------------------------------------------------------------------------------------------------


def test_a_query_goes_on_at_once_with_its_other_bits_kept(reader: Reader) -> None:
    (effect,) = reader.receive(udp_query(query()))
    assert isinstance(effect, Move)
    assert (effect.packet_id, effect.mark) == (1, ORIGINAL)
    assert effect.queue_num in WORKERS
    assert reader.counts == {(QUERY, Outcome.NOTED): 1}


def test_a_response_waits_until_its_addresses_are_in_force(reader: Reader) -> None:
    asked = reader.ask()
    expected = Answer(FIRST, parse_address(POD), "www.example.com", ((ADDRESS, 300),))
    assert reader.receive(udp_response(answered(asked, "192.0.2.1"))) == [expected]
    assert reader.in_force(FIRST - 1) == []
    (move,) = reader.in_force(FIRST)
    assert (move.packet_id, move.mark) == (2, REPLY)
    assert reader.counts[RESPONSE, Outcome.LEARNED] == 1
    assert reader.later(MAX_WAIT_NS) == []


def test_query_and_response_go_to_the_same_worker_and_connections_to_all(reader: Reader) -> None:
    used = set()
    for port in range(40_000, 40_100):
        sent, received = (
            reader.receive(udp_query(query(), port=port)),
            reader.receive(udp_response(answered(query()), port=port)),
        )
        (first,), (second,) = sent, received
        assert isinstance(first, Move)
        assert isinstance(second, Move)
        assert first.queue_num == second.queue_num
        used.add(first.queue_num)
    assert used == set(WORKERS)


def test_ipv6_is_read_and_a_family_answers_for_the_other(reader: Reader) -> None:
    asked = query(record_type="AAAA")
    reader.receive(udp_query(asked, POD6, SERVER6))
    (answer,) = reader.receive(udp_response(answered(asked, "2001:db8::1"), POD6, SERVER6))
    assert answer == Answer(FIRST, parse_address(POD6), "www.example.com", ((parse_address("2001:db8::1"), 300),))


def test_a_response_that_comes_too_late_in_force_goes_on_unlearned(reader: Reader) -> None:
    asked = reader.ask()
    reader.receive(udp_response(answered(asked, "192.0.2.1")))
    assert reader.later(MAX_WAIT_NS - 1) == []
    assert reader.learner.due_ns == reader.now_ns + 1
    assert ids(reader.later(1)) == [2]
    assert reader.counts[RESPONSE, Outcome.LATE] == 1
    assert reader.in_force(FIRST) == []
    assert (RESPONSE, Outcome.LEARNED) not in reader.counts
    assert (reader.learner.tally.held, reader.learner.tally.released) == (1, 1)
    assert reader.learner.tally.delay_ns == MAX_WAIT_NS
    asked = reader.ask(message_id=8)
    assert answers(reader.receive(udp_response(answered(asked, "192.0.2.1")))), "it is not known as in force"


def test_parallel_questions_of_one_socket_wait_each_for_themselves(reader: Reader) -> None:
    four, six = query(message_id=1), query(record_type="AAAA", message_id=2)
    reader.receive(udp_query(four))
    reader.receive(udp_query(six))
    assert answers(reader.receive(udp_response(answered(six, "2001:db8::1"))))[0].number == FIRST
    assert answers(reader.receive(udp_response(answered(four, "192.0.2.1"))))[0].number == FIRST + 1
    assert ids(reader.in_force(FIRST)) == [3]
    assert reader.counts[RESPONSE, Outcome.LEARNED] == 1
    assert ids(reader.in_force(FIRST + 1)) == [4]


def test_a_repeated_answer_does_not_wait_for_another_of_the_same_socket(reader: Reader) -> None:
    learned(reader)
    known, other = reader.ask(message_id=1), reader.ask("other.example.com.", message_id=2)
    assert ids(reader.receive(udp_response(answered(other, "192.0.2.2")))) == []
    assert ids(reader.receive(udp_response(answered(known, "192.0.2.1")))) == [6]


def learned(reader: Reader, ttl: int = 300) -> None:
    asked = reader.ask()
    (answer,) = answers(reader.receive(udp_response(answered(asked, "192.0.2.1", ttl=ttl))))
    assert reader.in_force(answer.number)


def test_a_repeated_answer_goes_on_at_once_and_unreported(reader: Reader) -> None:
    learned(reader)
    asked = reader.ask(message_id=8)
    effects = reader.receive(udp_response(answered(asked, "192.0.2.1")))
    assert (ids(effects), answers(effects)) == ([4], [])
    assert reader.counts[RESPONSE, Outcome.REPEATED] == 1


def test_a_longer_life_is_reported_and_nothing_waits_for_it(reader: Reader) -> None:
    learned(reader)
    asked = reader.ask(message_id=8)
    effects = reader.receive(udp_response(answered(asked, "192.0.2.1", ttl=900)))
    assert (ids(effects), [answer.addresses for answer in answers(effects)]) == ([4], [((ADDRESS, 900),)])
    assert answers(effects)[0].number == FIRST + 1
    asked = reader.ask(message_id=9)
    assert answers(reader.receive(udp_response(answered(asked, "192.0.2.1", ttl=900)))) == []


def test_an_address_beside_known_ones_waits_with_all_reported(reader: Reader) -> None:
    learned(reader)
    asked = reader.ask(message_id=8)
    effects = reader.receive(udp_response(answered(asked, "192.0.2.1", "192.0.2.2")))
    assert ids(effects) == []
    assert len(answers(effects)[0].addresses) == 2


def test_an_address_waits_again_when_its_life_is_over(reader: Reader) -> None:
    learned(reader, ttl=5)
    reader.later(5_000_000_000)
    asked = reader.ask(message_id=8)
    assert ids(reader.receive(udp_response(answered(asked, "192.0.2.1")))) == []


def test_a_copy_of_a_waiting_response_does_not_overtake_it(reader: Reader) -> None:
    asked = reader.ask()
    packet = udp_response(answered(asked, "192.0.2.1"))
    assert ids(reader.receive(packet)) == ids(reader.receive(packet)) == []
    assert ids(reader.in_force(FIRST)) == [2]
    assert ids(reader.in_force(FIRST + 1)) == [3]


# --- what is not learned --------------------------------------------------------------------------------------------------------------


ASKED = query()
EVIL = records("www.example.com.", "A", "192.0.2.66")
NOT_LEARNED = [
    pytest.param(udp_response(answered(ASKED, "192.0.2.66"), server=STRANGER), Outcome.UNTRUSTED, id="another server"),
    pytest.param(udp_response(answered(query(message_id=8), "192.0.2.66")), Outcome.UNMATCHED, id="wrong id"),
    pytest.param(udp_response(answered(ASKED, "192.0.2.66"), port=40_001), Outcome.UNMATCHED, id="wrong port"),
    pytest.param(udp_response(answered(ASKED, "192.0.2.66"), pod=OTHER_POD), Outcome.UNMATCHED, id="another pod"),
    pytest.param(udp_response(answered(query("evil.com."), "192.0.2.66")), Outcome.UNMATCHED, id="another question"),
    pytest.param(udp_response(answered(query(record_type="AAAA"), "fd::66")), Outcome.UNMATCHED, id="another type"),
    pytest.param(udp_response(response(ASKED, records("evil.", "A", "192.0.2.66"))), Outcome.NOTHING_NEW, id="another name"),
    pytest.param(udp_response(answered(ASKED)), Outcome.NOTHING_NEW, id="no address"),
    pytest.param(udp_response(response(ASKED, EVIL, rcode=3)), Outcome.NOTHING_NEW, id="no such name"),
    pytest.param(udp_response(response(ASKED, EVIL, truncated=True)), Outcome.TRUNCATED, id="truncated"),
    pytest.param(udp_response(ASKED), Outcome.MALFORMED, id="a query in place of a response"),
    pytest.param(udp_response(answered(ASKED, "192.0.2.66")[:-1]), Outcome.MALFORMED, id="half a record"),
    pytest.param(udp_response(b""), Outcome.MALFORMED, id="empty"),
    pytest.param(udp_response(answered(ASKED, "192.0.2.66"))[:-3], Outcome.MALFORMED, id="a cut datagram"),
]


@pytest.mark.parametrize(("packet", "outcome"), NOT_LEARNED)
def test_it_goes_on_at_once_and_unlearned(reader: Reader, packet: bytes, outcome: Outcome) -> None:
    assert reader.ask() == ASKED
    (move,) = reader.receive(packet)
    assert isinstance(move, Move)
    assert (move.packet_id, move.mark) == (2, REPLY)
    assert reader.counts == {(QUERY, Outcome.NOTED): 1, (RESPONSE, outcome): 1}
    assert answers(reader.receive(udp_response(answered(ASKED, "192.0.2.1")))), "the true response is learned all the same"


def test_a_name_that_no_policy_can_have_is_not_learned(reader: Reader) -> None:
    asked = reader.ask("a\\.b.example.com.")
    assert ids(reader.receive(udp_response(answered(asked, "192.0.2.66")))) == [2]
    assert reader.counts[RESPONSE, Outcome.NOTHING_NEW] == 1


@pytest.mark.parametrize(
    ("packet", "outcome"),
    [
        (udp_query(query(), server=STRANGER), Outcome.UNTRUSTED),
        (udp_query(b"x"), Outcome.MALFORMED),
        (udp_query(answered(query(), "192.0.2.1")), Outcome.MALFORMED),
        (b"", Outcome.MALFORMED),
        (b"\x45" + bytes(10), Outcome.MALFORMED),
        (udp_query(query())[:30], Outcome.MALFORMED),
    ],
)
def test_a_query_that_is_not_noted_goes_on(reader: Reader, packet: bytes, outcome: Outcome) -> None:
    (move,) = reader.receive(packet)
    assert isinstance(move, Move)
    assert (move.mark, reader.counts) == (ORIGINAL, {(QUERY, outcome): 1})


def test_a_response_without_a_query_goes_on(reader: Reader) -> None:
    assert ids(reader.receive(udp_response(answered(query(), "192.0.2.1")))) == [1]
    assert reader.counts == {(RESPONSE, Outcome.UNMATCHED): 1}


def test_a_query_from_port_53_is_no_response(reader: Reader) -> None:
    """A pod that sends from port 53 must not have its connections evaluated in the other direction."""
    for packet in (udp(SERVER, POD, query(), 53, 53), udp(SERVER, POD, answered(query(), "192.0.2.1"), 53, 53)):
        (move,) = reader.receive(packet)
        assert isinstance(move, Move)
        assert move.mark == ORIGINAL


def test_a_resolver_library_may_ask_from_port_53(reader: Reader) -> None:
    asked = query()
    reader.receive(udp(POD, SERVER, asked, 53, 53))
    assert answers(reader.receive(udp(SERVER, POD, answered(asked, "192.0.2.1"), 53, 53)))
    (move,) = reader.in_force(FIRST)
    assert move.mark == REPLY


def test_more_addresses_than_are_learned_are_counted(reader: Reader) -> None:
    asked = reader.ask()
    many = [f"10.1.{number // 256}.{number % 256}" for number in range(600)]
    (answer,) = answers(reader.receive(udp_response(answered(asked, *many))))
    assert (len(answer.addresses), reader.learner.tally.cut_answers) == (512, 1)


def test_no_more_responses_wait_than_there_is_room_for(reader: Reader) -> None:
    for number in range(MAX_HELD):
        asked = reader.ask(message_id=number % 900, name=f"n{number}.example.com.")
        assert ids(reader.receive(udp_response(answered(asked, "192.0.2.1")))) == []
    asked = reader.ask()
    effects = reader.receive(udp_response(answered(asked, "192.0.2.1")))
    assert (len(ids(effects)), len(answers(effects))) == (1, 1)
    assert reader.counts[RESPONSE, Outcome.OVERFLOW] == 1
    assert len(reader.in_force(FIRST + MAX_HELD)) == MAX_HELD
    assert reader.counts[RESPONSE, Outcome.LEARNED] == MAX_HELD


# --- messages -----------------------------------------------------------------------------------------------------------------------


def test_other_resolvers_count_at_once_and_what_was_in_force_is_forgotten(reader: Reader) -> None:
    learned(reader)
    reader.learner.set_resolvers(Resolvers((parse_address(SERVER),)))
    asked = reader.ask(message_id=8)
    (answer,) = answers(reader.receive(udp_response(answered(asked, "192.0.2.1"))))
    reader.learner.set_resolvers(Resolvers((parse_address(STRANGER),)))
    assert reader.in_force(answer.number), "it waits for its number all the same"
    reader.receive(udp_query(query(message_id=9)))
    assert reader.counts[QUERY, Outcome.UNTRUSTED] == 1
    reader.learner.set_resolvers(Resolvers((parse_address(SERVER),)))
    asked = reader.ask(message_id=10)
    assert answers(reader.receive(udp_response(answered(asked, "192.0.2.1")))), "another supervisor may not have it"


def test_what_waited_for_another_supervisor_is_not_known_as_in_force(reader: Reader) -> None:
    asked = reader.ask()
    (answer,) = answers(reader.receive(udp_response(answered(asked, "192.0.2.1"))))
    reader.learner.set_resolvers(Resolvers((parse_address(SERVER),)))
    assert ids(reader.in_force(answer.number)) == [2]
    asked = reader.ask(message_id=8)
    assert answers(reader.receive(udp_response(answered(asked, "192.0.2.1"))))


def test_a_response_goes_on_if_its_answer_could_not_be_sent(reader: Reader) -> None:
    asked = reader.ask()
    (answer,) = answers(reader.receive(udp_response(answered(asked, "192.0.2.1"))))
    assert ids(reader.learner.on_unsent(answer, reader.now_ns)) == [2]
    assert reader.counts[RESPONSE, Outcome.LATE] == 1
    assert reader.in_force(answer.number) == []


def test_all_that_waits_goes_on_at_the_end(reader: Reader) -> None:
    asked = reader.ask()
    reader.receive(udp_response(answered(asked, "192.0.2.1")))
    assert ids(reader.learner.release_all(reader.now_ns)) == [2]
    assert (reader.counts[RESPONSE, Outcome.LATE], reader.learner.due_ns) == (1, None)


@pytest.mark.parametrize(
    ("packet", "mark", "kind"),
    [
        (udp_query(query()), ORIGINAL, QUERY),
        (udp_response(answered(query(), "192.0.2.1")), REPLY, RESPONSE),
        (udp(SERVER, POD, b"", 53, 53), ORIGINAL, QUERY),
        (b"", ORIGINAL, QUERY),
    ],
)
def test_an_orphan_goes_on_unread(reader: Reader, packet: bytes, mark: int, kind: MessageKind) -> None:
    move = reader.learner.pass_on(5, NAMES, packet, Outcome.ORPHANED)
    assert (move.packet_id, move.mark) == (5, mark)
    assert reader.counts == {(kind, Outcome.ORPHANED): 1}


# --- TCP --------------------------------------------------------------------------------------------------------------------------------


class TcpTalk:
    """A TCP connection between pod and server."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.next = {QUERY: 100, RESPONSE: 0xFFFFFFF0}
        self.send(QUERY, flags=SYN)
        self.send(RESPONSE, flags=SYN | ACK)
        self.send(QUERY)

    def send(self, kind: MessageKind, data: bytes = b"", flags: int = ACK) -> list[Effect]:
        ends = (POD, SERVER) if kind is QUERY else (SERVER, POD)
        ports = (POD_PORT, 53) if kind is QUERY else (53, POD_PORT)
        packet = dns_messages.tcp(*ends, data, ports, sequence=self.next[kind], flags=flags)
        self.next[kind] += len(data) + bool(flags & (SYN | FIN))
        return self.reader.receive(packet)


def test_only_the_segment_that_completes_a_response_waits_and_those_behind_it(reader: Reader) -> None:
    talk, asked = TcpTalk(reader), query()
    data = with_length(answered(asked, "192.0.2.1"))
    assert ids(talk.send(QUERY, with_length(asked))) == [4]
    assert ids(talk.send(RESPONSE)) == [5], "an acknowledgement"
    assert ids(talk.send(RESPONSE, data[:1])) == [6]
    assert ids(talk.send(RESPONSE, data[1:9])) == [7]
    effects = talk.send(RESPONSE, data[9:])
    assert (ids(effects), answers(effects)[0].name) == ([], "www.example.com")
    talk.next[RESPONSE] -= 5
    assert ids(talk.send(RESPONSE, data[-5:])) == [], "a copy, because nothing was acknowledged"
    assert ids(talk.send(RESPONSE, flags=FIN | ACK)) == []
    assert ids(talk.send(QUERY, with_length(query(message_id=8)))) == [11], "the other direction goes on"
    moves = reader.in_force(FIRST)
    assert (ids(moves), {move.mark for move in moves}) == ([8, 9, 10], {REPLY})


def test_several_responses_in_one_segment_wait_for_the_last(reader: Reader) -> None:
    talk, first, second = TcpTalk(reader), query(message_id=1), query(record_type="AAAA", message_id=2)
    talk.send(QUERY, with_length(first, second))
    effects = talk.send(RESPONSE, with_length(answered(first, "192.0.2.1"), answered(second, "2001:db8::1")))
    assert [answer.number for answer in answers(effects)] == [FIRST, FIRST + 1]
    assert reader.in_force(FIRST) == []
    assert ids(reader.in_force(FIRST + 1)) == [5]
    assert reader.counts[RESPONSE, Outcome.LEARNED] == 2


def test_a_repeated_answer_behind_a_waiting_one_stays_in_order(reader: Reader) -> None:
    learned(reader)
    talk, known, other = TcpTalk(reader), query(message_id=1), query("other.example.com.", message_id=2)
    talk.send(QUERY, with_length(known, other))
    assert ids(talk.send(RESPONSE, with_length(answered(other, "192.0.2.2")))) == []
    assert ids(talk.send(RESPONSE, with_length(answered(known, "192.0.2.1")))) == []
    assert ids(reader.later(MAX_WAIT_NS)) == [7, 8]


def test_a_connection_that_began_before_is_counted(reader: Reader) -> None:
    packet = dns_messages.tcp(SERVER, POD, with_length(answered(query(), "192.0.2.1")), (53, POD_PORT))
    assert ids(reader.receive(packet)) == [1]
    assert reader.counts == {(RESPONSE, Outcome.UNFOLLOWED): 1}


def test_tcp_to_another_server_is_counted_by_segments_with_data(reader: Reader) -> None:
    for data in (b"", with_length(query())):
        reader.receive(dns_messages.tcp(POD, STRANGER, data, (POD_PORT, 53)))
    assert reader.counts == {(QUERY, Outcome.UNTRUSTED): 1}
