"""The messages of a command in a container."""

import json

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.errors import NetpolqError
from netpolq.flow_view.exec_stream import ExecStream

SUCCESS = b"\x03" + json.dumps({"metadata": {}, "status": "Success"}).encode()
FAILURE = b"\x03" + json.dumps({"status": "Failure", "message": "exit status 2", "reason": "NonZeroExitCode"}).encode()


@given(st.lists(st.integers(1, 9), max_size=20))
def test_lines_are_put_together_from_pieces(sizes: list[int]) -> None:
    data, stream = b"one\ntwo\n\nthree\nfo", ExecStream()
    found: list[bytes] = []
    for size in (*sizes, len(data)):
        lines, errors = stream.feed(b"\x01" + data[:size])
        assert errors == []
        found += lines
        data = data[size:]
    assert found == [b"one", b"two", b"", b"three"]
    assert not stream.is_complete


def test_success_is_the_end() -> None:
    stream = ExecStream()
    assert stream.feed(SUCCESS) == ([], [])
    assert (stream.is_complete, stream.failure) == (True, "")


def test_a_failure_has_the_last_line_of_standard_error_as_its_reason() -> None:
    stream = ExecStream()
    assert stream.feed(b"\x02netpolq: a remark\nnetpolq: err") == ([], ["netpolq: a remark"])
    stream.feed(b"\x02or: flows are off\x1b[2J\n")
    stream.feed(FAILURE)
    assert (stream.is_complete, stream.failure) == (False, "flows are off\\x1b[2J")
    other = ExecStream()
    other.feed(FAILURE)
    assert other.failure == "exit status 2"


@pytest.mark.parametrize("message", [b"\x03", b"\x03[]", b"\x03{}", b"\x03\xff", b"\x03null"])
def test_an_end_that_cannot_be_read_is_a_failure(message: bytes) -> None:
    stream = ExecStream()
    stream.feed(message)
    assert not stream.is_complete
    assert stream.failure.startswith("its end cannot be read")


@given(st.lists(st.binary(max_size=30)))
def test_random_messages_raise_nothing(messages: list[bytes]) -> None:
    stream = ExecStream()
    for message in messages:
        stream.feed(message)


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netpolq.flow_view.exec_stream.MAX_LINE_BYTES", 100)
    stream = ExecStream()
    for _number in range(10):
        stream.feed(b"\x01" + b"x" * 10)
    with pytest.raises(NetpolqError, match="a line of more than 100 bytes"):
        stream.feed(b"\x01x")
