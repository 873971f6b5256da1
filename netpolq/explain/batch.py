"""Batches of questions: JSON lines in, JSON lines out, in order, in constant memory.

    {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "TCP", "sport": 1234, "dport": 80}

`proto`: a name in any case or an IANA number. `dport`: a number, or the name of a port of the destination pod; required for TCP, UDP and
SCTP, otherwise ignored. `via_service`: true if the client uses the address of a Service, see `Evaluator`; it may be absent. `sport` and
all other fields are ignored. An answer repeats `src`, `dst`, `proto` and `dport`, the latter as a
number; if the question has a port name, the answer has it as `dport_name`. The answer to an invalid line is `{"error": …, "line": N}`.
"""

import functools
import os
import sys

from collections.abc import Callable, Iterator, Mapping
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar

import orjson

from netpolq.addresses import AddressKey, is_ipv4, parse_address
from netpolq.errors import ExitCode, NetpolqError
from netpolq.explain.endpoints import resolve_port
from netpolq.explain.expect import Expected
from netpolq.explain.flow import has_ports, parse_port, parse_protocol
from netpolq.explain.render import as_json_line, echo
from netpolq.model import Pod
from netpolq.policy.evaluator import Evaluator
from netpolq.store import Store

MAX_LINE_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_MAX_CACHED_FLOWS = 16 * 1024
_MAX_CACHED_ANSWERS = 1024

_Value = TypeVar("_Value")
_Owners = Callable[[], Mapping[bytes, Pod]]


class _OutputError(NetpolqError):
    """Standard output cannot be written. Unlike an `OSError`, it is no error of the input file."""


def answer_all(evaluator: Evaluator, store: Store, packets: str, expected: Expected | None = None) -> ExitCode:
    """Answer a file (`-`: standard input) on standard output. See `answer_stream`."""
    try:
        with _opened(packets) as stream:
            return answer_stream(evaluator, store, stream, sys.stdout.buffer, expected)
    except BrokenPipeError:
        # The reader has closed the pipe. Python would report that again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except _OutputError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
    except OSError as error:
        raise NetpolqError(f"--packets: {packets}: {error.strerror}") from error


def answer_stream(
    evaluator: Evaluator, store: Store, stream: BufferedIOBase, output: BinaryIO, expected: Expected | None = None
) -> ExitCode:
    """Answer every line as soon as it arrives. `store`: the objects of the evaluator, which include the names of ports.

    Returns FAILED if a line is invalid, UNEXPECTED if a verdict differs from the expected one, otherwise OK.
    """
    # Many flows share one answer, and each result of orjson occupies at least 4 KiB.
    render = functools.lru_cache(maxsize=_MAX_CACHED_ANSWERS)(as_json_line)

    # The evaluator never changes, so an answer can be cached.
    @functools.lru_cache(maxsize=_MAX_CACHED_FLOWS)
    def answer(
        source: AddressKey, destination: AddressKey, protocol: int, port: int, port_name: str | None, via_service: bool
    ) -> tuple[bytes, bool]:
        explanation = evaluator.explain(source, destination, protocol, port, via_service=via_service)
        is_expected = expected is None or expected.is_met_by(explanation)
        question = echo(source, destination, protocol, port, port_name, via_service=via_service)
        return question + render(explanation)[1:], is_expected

    # Computed at the first port name: the time is proportional to the number of pods.
    owners = functools.cache(store.address_owners)
    is_bad = is_unexpected = False
    number = 0
    for lines in _lines(stream):
        answers = []
        for line in lines:
            number += 1
            try:
                flow = _parse(line, owners)
            except ValueError as error:
                is_bad = True
                answers.append(orjson.dumps({"error": str(error), "line": number}, option=orjson.OPT_APPEND_NEWLINE))
            else:
                text, is_expected = answer(*flow)
                answers.append(text)
                is_unexpected |= not is_expected
        try:
            output.write(b"".join(answers))
            output.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _OutputError(f"standard output: {error.strerror}") from error
    if is_bad:
        return ExitCode.FAILED
    return ExitCode.UNEXPECTED if is_unexpected else ExitCode.OK


def _opened(packets: str) -> BufferedReader:
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb") if packets == "-" else Path(packets).open("rb")


def _lines(stream: BufferedIOBase) -> Iterator[list[bytes | None]]:
    """Yield lists of the lines that have arrived, without line ends; None for a line longer than `MAX_LINE_BYTES`."""
    rest = b""
    overflowing = False
    while chunk := stream.read1(_CHUNK_BYTES):
        *complete, rest = (rest + chunk).split(b"\n")
        lines = [line if len(line) <= MAX_LINE_BYTES else None for line in complete]
        if lines and overflowing:
            lines[0] = None
            overflowing = False
        if len(rest) > MAX_LINE_BYTES:
            rest = b""
            overflowing = True
        if lines:
            yield lines
    if overflowing:
        yield [None]
    elif rest:
        yield [rest]


def _parse(line: bytes | None, owners: _Owners) -> tuple[AddressKey, AddressKey, int, int, str | None, bool]:
    """The flow a line asks about, the name that it has for the port, if any, and whether it goes via a Service.

    Raises `ValueError` saying what is wrong.
    """
    if line is None:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        question: object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError("not JSON") from error
    if not isinstance(question, dict):
        raise ValueError("not a JSON object")
    source = _field(question, "src", _address)
    destination = _field(question, "dst", _address)
    if is_ipv4(source) != is_ipv4(destination):
        raise ValueError("src and dst are of different address families")
    protocol = _field(question, "proto", parse_protocol)
    via_service = _field(question, "via_service", _flag) if "via_service" in question else False
    name = question.get("dport")
    if isinstance(name, str) and name and not name.isdigit() and has_ports(protocol):
        return (
            source,
            destination,
            protocol,
            _field(question, "dport", lambda _: _named(owners, destination, protocol, name)),
            name,
            via_service,
        )
    return source, destination, protocol, _field(question, "dport", lambda value: _number(protocol, value)), None, via_service


def _named(owners: _Owners, destination: AddressKey, protocol: int, name: str) -> int:
    try:
        return resolve_port(owners(), destination, protocol, name)
    except NetpolqError as error:
        raise ValueError(str(error)) from error


def _number(protocol: int, value: object) -> int:
    try:
        return parse_port(protocol, value)
    except ValueError as error:
        hint = " without quotes, or the name of a port of the destination pod" if isinstance(value, str) else ""
        raise ValueError(f"{error}{hint}") from error


def _field(question: Mapping[object, object], name: str, read: Callable[[object], _Value]) -> _Value:
    try:
        return read(question.get(name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}" if name in question else f"{name}: missing") from error


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _address(value: object) -> AddressKey:
    try:
        return parse_address(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError("must be an IP address") from error
