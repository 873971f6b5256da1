"""The reader of DNS messages: questions, aliases, lies, and any bytes."""

import ipaddress
import struct
import time

from itertools import pairwise, permutations

import dns.message
import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq.ipc.channel import MAX_ANSWER_ADDRESSES
from netpolq_worker.dns.message import MAX_ALIASES, MAX_RECORDS, Labels, name_of, read_addresses, read_question
from netpolq_worker.dns.outcomes import MessageKind
from tests.support.dns_messages import answered, query, record, records, response, wire

WWW: Labels = (b"www", b"example", b"com", b"")
POINTER = b"\xc0\x0c"  # to the question's name
MAX_S = 5.0


def found(message: bytes, name: Labels = WWW) -> dict[str, int]:
    """Addresses as text, with their TTL."""

    def text(key: bytes) -> str:
        address = ipaddress.IPv6Address(key)
        return str(address.ipv4_mapped or address)

    return {text(key): ttl for key, ttl in read_addresses(message, name).addresses}


# --- questions --------------------------------------------------------------------------------------------------------------------


def test_a_question_has_id_name_and_type() -> None:
    question = read_question(query("www.Example.COM.", "AAAA", 513), MessageKind.QUERY)
    assert question == (513, WWW, 28)


def test_case_of_a_question_does_not_count() -> None:
    """Resolvers mix cases so that forged answers are found (0x20)."""
    asked, reply = query("wWw.eXamPle.cOm."), answered(query("WWW.EXAMPLE.com."), "192.0.2.1")
    assert read_question(asked, MessageKind.QUERY) == read_question(reply, MessageKind.RESPONSE)
    assert found(reply) == {"192.0.2.1": 300}


@pytest.mark.parametrize("kind", MessageKind)
def test_a_message_of_the_other_kind_has_no_question(kind: MessageKind) -> None:
    messages = {MessageKind.QUERY: answered(query(), "192.0.2.1"), MessageKind.RESPONSE: query()}
    assert read_question(messages[kind], kind) is None


def patched(message: bytes, offset: int, *words: int) -> bytes:
    return message[:offset] + struct.pack(f"!{len(words)}H", *words) + message[offset + 2 * len(words) :]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(query()[:11], id="half a header"),
        pytest.param(query()[:12], id="no question"),
        pytest.param(query()[:20], id="half a name"),
        pytest.param(query()[:-2], id="no class"),
        pytest.param(patched(query(), 2, 0x2900), id="another opcode"),
        pytest.param(patched(query(), 4, 0), id="no question announced"),
        pytest.param(patched(query(), 4, 2), id="two questions"),
        pytest.param(patched(query(), len(query()) - 2, 3), id="class CHAOS"),
        pytest.param(patched(query(), 12, 0xC00C), id="a name that points to itself"),
        pytest.param(patched(query(), 12, 0x8000), id="an unknown label type"),
        pytest.param(query()[:12] + b"\x3f" + b"a" * 20, id="a label longer than the message"),
        pytest.param(query()[:12] + b"\x01a" * 130 + b"\0\0\1\0\1", id="a name of more than 255 bytes"),
    ],
)
def test_a_malformed_query_has_no_question(message: bytes) -> None:
    assert read_question(message, MessageKind.QUERY) is None


# --- names ------------------------------------------------------------------------------------------------------------------------


def test_a_name_is_lower_case_and_has_no_dot_at_its_end() -> None:
    question = read_question(query("_Sip.X-1.Example.com."), MessageKind.QUERY)
    assert question is not None
    assert name_of(question.name) == "_sip.x-1.example.com"


LONG = (b"a" * 63, b"b" * 63, b"c" * 63)


@pytest.mark.parametrize(
    ("labels", "is_name"),
    [
        ((b"",), False),  # the root
        ((b"com", b""), True),
        ((b"a.b", b"com", b""), False),
        ((b"a\\", b"com", b""), False),
        ((b"*", b"com", b""), False),
        ((b"m\xfcller", b"com", b""), False),
        ((b"a\0", b"com", b""), False),
        ((b"a\n", b"com", b""), False),
        ((b"", b"com", b""), False),
        ((*LONG, b"d" * 61, b""), True),  # 253
        ((*LONG, b"d" * 62, b""), False),
    ],
)
def test_only_a_name_that_a_policy_can_have_is_learned(labels: Labels, is_name: bool) -> None:
    text = name_of(labels)
    assert (text is not None) is is_name
    assert text is None or text == b".".join(labels[:-1]).decode()


# --- addresses --------------------------------------------------------------------------------------------------------------------


def test_both_families_are_read() -> None:
    asked = query()
    four, six = (
        records("www.example.com.", "A", "192.0.2.1", "192.0.2.2"),
        records("www.example.com.", "AAAA", "2001:db8::1", ttl=60),
    )
    assert found(response(asked, four, six)) == {"192.0.2.1": 300, "192.0.2.2": 300, "2001:db8::1": 60}
    assert parse_address("192.0.2.1") in dict(read_addresses(response(asked, four), WWW).addresses)


def test_aliases_are_followed_in_any_order_of_records_with_the_least_ttl_on_the_way() -> None:
    chain = [
        records("www.example.com.", "CNAME", "a.example.net.", ttl=500),
        records("a.example.net.", "CNAME", "b.example.org.", ttl=40),
        records("b.example.org.", "A", "192.0.2.1", ttl=90),
        records("b.example.org.", "AAAA", "2001:db8::1", ttl=10),
    ]
    for order in permutations(chain):
        assert found(response(query(), *order)) == {"192.0.2.1": 40, "2001:db8::1": 10}


def test_the_least_ttl_may_be_that_of_any_alias() -> None:
    ttls = [20, 30, 40]
    names = ["www.example.com.", "a.example.net.", "b.example.org."]
    for order in permutations(ttls):
        chain = [records(name, "CNAME", target, ttl=ttl) for (name, target), ttl in zip(pairwise(names), order, strict=False)]
        address = records(names[-1], "A", "192.0.2.1", ttl=order[-1])
        assert found(response(query(), *chain, address)) == {"192.0.2.1": 20}


def test_records_of_other_names_are_not_learned() -> None:
    """Also those that an alias of another name leads to."""
    others = [
        records("evil.example.com.", "A", "192.0.2.66"),
        records("evil.example.com.", "CNAME", "www.example.com."),
        records("other.example.com.", "CNAME", "third.example.com."),
        records("third.example.com.", "A", "192.0.2.67"),
        records("com.", "A", "192.0.2.68"),
    ]
    own = records("www.example.com.", "A", "192.0.2.1")
    assert found(response(query(), *others[:2], own, *others[2:])) == {"192.0.2.1": 300}
    assert found(response(query(), *others)) == {}


def test_only_the_answer_section_counts() -> None:
    made = dns.message.from_wire(response(query()))
    made.authority = [records("www.example.com.", "A", "192.0.2.66")]
    made.additional = [records("www.example.com.", "A", "192.0.2.67")]
    assert found(made.to_wire()) == {}


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_loop_of_aliases_ends(length: int) -> None:
    names = ["www.example.com.", *(f"n{number}.example.com." for number in range(1, length))]
    loop = [records(name, "CNAME", target) for name, target in zip(names, [*names[1:], names[0]], strict=True)]
    assert found(response(query(), *loop, records(names[-1], "A", "192.0.2.1"))) == {"192.0.2.1": 300}


def test_the_first_of_two_aliases_of_a_name_counts() -> None:
    first, second = (record(POINTER, 5, b"\x01" + letter + POINTER) for letter in (b"a", b"b"))
    a, b = (record(b"\x01" + letter + POINTER, 1, bytes([192, 0, 2, number])) for number, letter in enumerate((b"a", b"b")))
    assert found(wire("www.example.com.", [first, second, a, b])) == {"192.0.2.0": 300}


@pytest.mark.parametrize("rcode", range(1, 16))
def test_an_error_tells_no_address(rcode: int) -> None:
    assert found(response(query(), records("www.example.com.", "A", "192.0.2.1"), rcode=rcode)) == {}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(record(POINTER, 1, bytes(4), record_class=3), id="class CHAOS"),
        pytest.param(record(POINTER, 1, bytes(5)), id="an A record of five bytes"),
        pytest.param(record(POINTER, 1, bytes(16)), id="an A record of sixteen bytes"),
        pytest.param(record(POINTER, 28, bytes(4)), id="an AAAA record of four bytes"),
        pytest.param(record(POINTER, 65, bytes(30)), id="another type"),
    ],
)
def test_a_record_of_another_form_tells_no_address_and_hides_none(answer: bytes) -> None:
    good = record(POINTER, 1, bytes([192, 0, 2, 1]))
    assert found(wire("www.example.com.", [answer, good])) == {"192.0.2.1": 300}


@pytest.mark.parametrize(("ttl", "read"), [(0, 0), (1, 1), (0x7FFFFFFF, 0x7FFFFFFF), (0x80000000, 0), (0xFFFFFFFF, 0)])
def test_a_ttl_with_the_highest_bit_counts_as_none(ttl: int, read: int) -> None:
    assert found(wire("www.example.com.", [record(POINTER, 1, bytes([192, 0, 2, 1]), ttl=ttl)])) == {"192.0.2.1": read}


def test_a_repeated_address_has_the_least_ttl() -> None:
    twice = [record(POINTER, 1, bytes([192, 0, 2, 1]), ttl=ttl) for ttl in (50, 20)]
    assert found(wire("www.example.com.", twice)) == {"192.0.2.1": 20}


def many(count: int) -> list[bytes]:
    return [record(POINTER, 1, struct.pack("!I", 0x0A000000 + number)) for number in range(count)]


def many_keys(count: int) -> tuple[tuple[bytes, int], ...]:
    return tuple((parse_address(f"10.0.0.{number}"), 300) for number in range(count))


@pytest.mark.parametrize(
    ("count", "learned", "has_more"),
    [(512, 512, False), (513, 512, True), (MAX_RECORDS, 512, True), (MAX_RECORDS + 1, 512, True), (4000, 512, True)],
)
def test_so_many_addresses_are_learned_and_more_are_noticed(count: int, learned: int, has_more: bool) -> None:
    answer = read_addresses(wire("www.example.com.", many(count)), WWW)
    assert (len(answer.addresses), answer.has_more) == (learned, has_more)
    assert learned <= MAX_ANSWER_ADDRESSES
    assert answer.addresses[0][0] == parse_address("10.0.0.0")


def test_so_many_records_are_read_and_more_are_noticed() -> None:
    others = [record(POINTER, 16, b"\0")] * MAX_RECORDS
    assert read_addresses(wire("www.example.com.", [*others[1:], *many(1)]), WWW) == (many_keys(1), False)
    assert read_addresses(wire("www.example.com.", [*others, *many(1)]), WWW) == ((), True)


def test_no_more_aliases_are_read_than_resolvers_follow() -> None:
    names = ["www.example.com.", *(f"n{number}.example.com." for number in range(1, MAX_ALIASES + 2))]
    for length, is_found in ((MAX_ALIASES, True), (MAX_ALIASES + 1, False)):
        chain = [records(name, "CNAME", target) for name, target in pairwise(names[: length + 1])]
        addresses = found(response(query(), *chain, records(names[length], "A", "192.0.2.1")))
        assert bool(addresses) is is_found


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(wire("www.example.com.", [], answer_count=1), id="a record that is not there"),
        pytest.param(wire("www.example.com.", [record(POINTER, 1, bytes(4))[:-1]]), id="half a record"),
        pytest.param(wire("www.example.com.", [b"\xc0\xff" + bytes(14)]), id="a pointer behind the message"),
        pytest.param(wire("www.example.com.", [b"\xc0\x21" + bytes(14)]), id="a pointer to itself"),
        pytest.param(wire("www.example.com.", [record(POINTER, 5, b"\x01a")]), id="half an alias"),
        pytest.param(wire("www.example.com.", [record(POINTER, 5, POINTER + b"x")]), id="an alias with a tail"),
        pytest.param(wire("www.example.com.", [b"\xc0"]), id="half a pointer"),
    ],
)
def test_a_malformed_answer_is_an_error(message: bytes) -> None:
    assert read_question(message, MessageKind.RESPONSE) is not None
    with pytest.raises(ValueError, match="malformed answer"):
        read_addresses(message, WWW)


def test_hostile_names_take_a_bounded_time() -> None:
    """Each record has the longest name that there can be, as a label before a pointer. Without bounds, this would take many seconds."""
    longest = b"\x01a" * 120 + b"\0"
    head = struct.pack("!HHHHHH", 7, 0x8180, 1, 4000, 0, 0) + longest + struct.pack("!HH", 1, 1)
    answers = b"".join(record(bytes([1, 97 + number % 26]) + POINTER, 5, b"\x01b" + POINTER) for number in range(4000))
    message = (head + answers)[:0xFFFF]
    started = time.process_time()
    assert read_addresses(message, (b"x", b"")).addresses == ()
    assert time.process_time() - started < MAX_S


def read(data: bytes, kind: MessageKind) -> None:
    question = read_question(data, kind)
    if question is not None:
        name_of(question.name)
        try:
            read_addresses(data, question.name)
        except ValueError:
            return


@given(st.binary(max_size=300), st.sampled_from(MessageKind))
def test_any_bytes_are_read(data: bytes, kind: MessageKind) -> None:
    read(data, kind)


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4))
def test_a_damaged_response_is_read(damage: list[tuple[int, int]]) -> None:
    alias, address = records("www.example.com.", "CNAME", "a.example.net."), records("a.example.net.", "A", "192.0.2.1")
    message = bytearray(response(query(), alias, address))
    for offset, value in damage:
        message[offset % len(message)] = value
    read(bytes(message), MessageKind.RESPONSE)
