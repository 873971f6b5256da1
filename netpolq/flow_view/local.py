"""Flows of the agent on this node, read from its status socket."""

import time

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

from netpolq.errors import NetpolqError, PrivilegeError
from netpolq.flow_view.outputs import Output
from netpolq.flows.filter import FlowFilter
from netpolq.supervisor import status_client
from netpolq.supervisor.flows_report import FLOWS_PATH, FlowsHead, decode_head
from netpolq.supervisor.status_client import AnswerError

_STEP_S = 1.0
_LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which flows to show. `since_s`: how many seconds back; None: from now on, with `follow` only."""

    wanted: FlowFilter
    since_s: int | None
    follow: bool


def show(run_dir: Path, question: Question, output: Output) -> FlowsHead:
    """Pass the flows of the question's period to an output. Returns the head. Raises `NetpolqError`."""
    lines = _answer(run_dir, question.wanted, "after=now" if question.since_s is None else f"since={question.since_s}")
    head = _head(next(lines, b""), output)
    for line in lines:
        pass_on(line, output)
    return head


def follow(run_dir: Path, question: Question, output: Output, sleep: Callable[[float], None] = time.sleep) -> None:
    """Pass the flows of the question's period to an output, and then what comes, without an end.

    A restart of the agent's supervisor gets a remark. Raises `NetpolqError` if there is no agent at the start, or if it refuses.
    """
    head = show(run_dir, question, output)
    problem = ""
    while True:
        output.tick()
        sleep(_STEP_S)
        try:
            head = _more(run_dir, question.wanted, head, output)
        except (AnswerError, PrivilegeError):
            raise
        except NetpolqError as error:
            if not problem:
                output.remark(f"{error} Trying again.")
            problem = str(error)
        else:
            if problem:
                output.remark("the agent answers again")
            problem = ""


def _more(run_dir: Path, wanted: FlowFilter, before: FlowsHead, output: Output) -> FlowsHead:
    """Pass on what was counted after a head. Returns the next one."""
    number = before.next
    while True:
        lines = _answer(run_dir, wanted, f"after={number}")
        line = next(lines, b"")
        head = decoded_head(line)
        if head.started_s == before.started_s:
            break
        output.remark("the agent has restarted; its flows are shown from its start on")
        before, number = head, 0
        if head.next == 0:
            break
    increments = list(lines)  # all of them, or none: what is read in part would be asked for again
    _head(line, output)
    for increment in increments:
        pass_on(increment, output)
    return head


def _answer(run_dir: Path, wanted: FlowFilter, period: str) -> Iterator[bytes]:
    query = urlencode(wanted.to_query())
    try:
        yield from status_client.lines(run_dir, f"{FLOWS_PATH}?{period}{query and '&'}{query}")
    except AnswerError as error:
        match error.status:
            case HTTPStatus.NOT_FOUND:
                raise AnswerError(
                    "the agent does not record flows: it is of an older version than this command", error.status, error.reason
                ) from error
            case HTTPStatus.BAD_REQUEST:
                raise AnswerError(error.reason, error.status, error.reason) from error
            case _:
                raise


def _head(line: bytes, output: Output) -> FlowsHead:
    head = decoded_head(line)
    output.head(_LOCAL, head, line)
    return head


def decoded_head(line: bytes) -> FlowsHead:
    """The head in a line. Raises `NetpolqError`."""
    try:
        return decode_head(line)
    except ValueError as error:
        raise NetpolqError(f"the agent's answer cannot be read: {error}; is it of another version?") from error


def pass_on(line: bytes, output: Output) -> None:
    """Give a record to an output. Raises `NetpolqError` if it is none."""
    try:
        output.record(line)
    except ValueError as error:
        raise NetpolqError(f"the agent's answer cannot be read: {error}; is it of another version?") from error
