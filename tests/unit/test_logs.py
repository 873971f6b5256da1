"""Rate limits of log lines, whatever input causes them."""

import contextlib
import io
import json
import logging

from pathlib import Path

import pytest

from netpolq.enums import LoggingFormat
from netpolq.logs import BURST_LINES, PACKET_LOG, Limit, write_error
from tests.support.logging_output import logging_output


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record(text: str = "%s is refused", *values: object, name: str = "pool", line: int = 7) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "/pool.py", line, text, values or ("x",), None)


def test_lines_from_one_place_are_left_out_when_there_are_too_many_and_others_are_not() -> None:
    clock = Clock()
    limit = Limit(clock)
    written = [line for line in (record("%s is refused", number) for number in range(3 * BURST_LINES)) if limit.filter(line)]
    assert len(written) == BURST_LINES
    assert [line.getMessage() for line in written[:-1]] == [f"{number} is refused" for number in range(BURST_LINES - 1)]
    assert written[-1].getMessage().endswith("(of lines like this, 1 a second is written from now on)")
    assert limit.filter(record(line=8))
    clock.now_s = 1.5
    (logged,) = [line for line in (record() for _ in range(2)) if limit.filter(line)]
    assert logged.getMessage() == f"x is refused (and {2 * BURST_LINES} lines like this that were left out)"


def test_after_a_quiet_time_all_lines_are_written_again() -> None:
    clock = Clock()
    limit = Limit(clock)
    assert sum(limit.filter(record()) for _ in range(2 * BURST_LINES)) == BURST_LINES
    clock.now_s = 2.0 * BURST_LINES
    assert limit.filter(record())  # with the remark
    line = record()
    assert limit.filter(line)
    assert line.getMessage() == "x is refused"


def test_lines_about_packets_have_a_limit_of_their_own() -> None:
    limit = Limit(Clock())
    assert all(limit.filter(record(name=PACKET_LOG)) for _ in range(2 * BURST_LINES))


@pytest.mark.parametrize("logging_format", LoggingFormat)
def test_what_a_program_writes_is_limited(logging_format: LoggingFormat) -> None:
    with logging_output(logging_format) as output:
        for _ in range(2 * BURST_LINES):
            try:
                raise ValueError("a packet that cannot be evaluated")
            except ValueError:
                logging.getLogger("worker").exception("packet %d could not be evaluated", 1)
    assert output.getvalue().count("packet 1 could not be evaluated") == BURST_LINES


def test_the_error_that_ends_a_program_is_one_line_in_the_shape_of_the_log() -> None:
    message = "first\nsecond \x1b[2J"
    text, document = io.StringIO(), io.StringIO()
    write_error(message, LoggingFormat.TEXT, text)
    write_error(message, LoggingFormat.JSON, document)
    assert text.getvalue() == "netpolq: error: first second \\x1b[2J\n"
    (line,) = document.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.keys() == {"ts", "level", "component", "pid", "msg"}
    assert (entry["level"], entry["msg"]) == ("error", "first second \\x1b[2J")


def test_an_error_that_cannot_be_written_raises_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        write_error("no room", LoggingFormat.TEXT, full)
        with contextlib.suppress(OSError):  # what it holds cannot be flushed at the end either
            full.close()
