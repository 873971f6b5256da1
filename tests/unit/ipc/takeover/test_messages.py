"""The bytes of the takeover messages. Agents of other versions speak them: they never change."""

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.ipc.takeover.messages import Message, Word, decode, encode, format_queues, parse_queues

BYTES = {
    Message(Word.QUEUES, "100:101"): b"queues 100:101",
    Message(Word.KEY, "00ff"): b"key 00ff",
    Message(Word.STAND_DOWN, "00ff"): b"stand-down 00ff",
    Message(Word.STAND_DOWN): b"stand-down",
    Message(Word.STANDING_DOWN): b"standing-down",
    Message(Word.LEAVE): b"leave",
    Message(Word.LEAVE, "200:203"): b"leave 200:203",
    Message(Word.LEFT): b"left",
    Message(Word.REFUSED): b"refused",
}


@pytest.mark.parametrize(("message", "data"), BYTES.items(), ids=str)
def test_the_bytes_of_each_message(message: Message, data: bytes) -> None:
    assert encode(message) == data
    assert decode(data) == message


def test_each_word_has_its_bytes_above() -> None:
    assert {message.word for message in BYTES} == set(Word)


@pytest.mark.parametrize("data", [b"", b" ", b"hello", b"LEAVE", b"leaves", b" leave", b"\xff\xfe"])
def test_an_unknown_word_is_no_message(data: bytes) -> None:
    assert decode(data) is None


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    message = decode(data)
    assert message is None or message.word in set(Word)


def test_queue_numbers() -> None:
    assert format_queues(range(100, 103)) == "100:102"
    assert parse_queues("100:102") == range(100, 103)
    for text in ("", "100", "100:", "1:2:3", "a:b", "-1:3", "3:2", "0:65536", "0:99999999999"):
        with pytest.raises(ValueError, match=r"invalid literal|unpack|is not a range"):
            parse_queues(text)
