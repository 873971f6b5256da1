"""The work of `netpolq explain`: which policies decide a flow. Needs no privileges and leaves the kernel alone."""

import re
import sys

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

from netpolq.addresses import AddressKey
from netpolq.errors import ExitCode, SettingsError
from netpolq.explain.answers import Answer, all_as_json, all_as_text, explain_all
from netpolq.explain.batch import answer_all
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.explain.endpoints import End, HostName, ObjectName, parse_endpoint
from netpolq.explain.expect import Expected
from netpolq.explain.flow import has_ports, parse_port, parse_protocol
from netpolq.explain.flows import Flows, flows_of
from netpolq.explain.known import Known, Read
from netpolq.explain.manifests import report
from netpolq.explain.names import parse_names
from netpolq.policy.evaluator import Evaluator
from netpolq.policy.reference import ReferenceEvaluator


class EvaluatorName(StrEnum):
    """The evaluator: of the encoded snapshot, as workers read it, or the slow reference implementation over the objects."""

    SNAPSHOT = "snapshot"
    REFERENCE = "reference"


class Output(StrEnum):
    """The output format of a single answer. A batch is always JSON lines."""

    TEXT = "text"
    JSON = "json"


_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}")

_Choice = TypeVar("_Choice", bound=StrEnum)


def run(
    *,
    read: Read,
    source: str | None,
    destination: str | None,
    protocol: str,
    port: str | None,
    packets: str | None,
    evaluator: str,
    output: str,
    expect: str | None = None,
    via_service: bool = False,
    names: str = "",
) -> int:
    """Answer one question, or a file of questions (`packets`; `-` is standard input). `via_service`: see `Evaluator`.

    `read`: reads the objects. `names`: the learned names, see `netpolq.explain.names`. `source` and `destination`: see `parse_endpoint`.
    `port`: a number, or the name of a port of the destination pod. Answers go to standard output, rejections to standard error.

    Returns the exit code: 0 for any verdict, 8 if a verdict differs from `expect`, 1 if a line of a batch is invalid.
    Raises `SettingsError` for a malformed flag, `NetpolqError` for a pod or file that does not exist.
    """
    evaluator_name = _choice("--engine", EvaluatorName, evaluator)
    form = _choice("--output", Output, output)
    expected = None if expect is None else _choice("--expect", Expected, expect)
    learned = parse_names(names)
    if packets is not None:
        if source is not None or destination is not None:
            raise SettingsError("--packets cannot be combined with --src and --dst; each line names both")
        known = _read(_reporting(read), None, learned)
        return answer_all(_evaluator(known, evaluator_name), known.store, packets, expected)

    if source is None or destination is None:
        raise SettingsError(f"{'--src' if source is None else '--dst'}: required without --packets")
    question = Question(
        source=source, destination=destination, protocol=protocol, port=port, via_service=via_service, names=names
    )
    answered = answer(_reporting(read), question, evaluator_name)
    sys.stdout.write(answered.json() if form is Output.JSON else answered.text())
    is_expected = expected is None or all(expected.is_met_by(one.explanation) for one in answered.answers)
    return ExitCode.OK if is_expected else ExitCode.UNEXPECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about one connection; see `run`."""

    source: str
    destination: str
    protocol: str = "TCP"
    port: str | None = None
    via_service: bool = False
    names: str = ""


class Answered(NamedTuple):
    """The answers to a question, and what they are about."""

    answers: tuple[Answer, ...]
    flows: Flows
    known: Known

    def json(self) -> str:
        """One JSON object on one line; see `all_as_json`."""
        return all_as_json(*self)

    def text(self) -> str:
        """The answers in words; see `all_as_text`."""
        return all_as_text(*self)


def answer(read: Read, question: Question, evaluator: EvaluatorName = EvaluatorName.SNAPSHOT) -> Answered:
    """Answer one question. Raises `NetpolqError` for an end that does not exist, `SettingsError` for one that is malformed.

    What `read` returns may be changed: addresses that stand for templates of workloads, and names, are added.
    """
    source, destination, port = question.source, question.destination, question.port
    learned = parse_names(question.names)
    number = _checked("--protocol", parse_protocol, question.protocol)
    # No policy matches the source port. It is accepted so that both endpoints can be copied from a log line.
    first, second = parse_endpoint("--src", source), parse_endpoint("--dst", destination)
    if port is not None and second.port is not None:
        raise SettingsError(
            f"--dst: the port of {destination!r} cannot be combined with --port {port!r}; allowed: one of the two"
        )
    given_port = _port(number, second.port if port is None else port, is_required=not _may_be_service(second.end))
    known = _read(read, (first.wanted, second.wanted), learned)
    flows = flows_of(known, first.end, second.end, number, given_port)
    with_audit = _evaluator(known, evaluator, with_audit=True) if known.has_audit else None
    answers = explain_all(known, _evaluator(known, evaluator), with_audit, flows, via_service=question.via_service)
    return Answered(answers, flows, known)


def _reporting(read: Read) -> Read:
    """Return the same reader, which tells what cannot be used on standard error."""

    def reading(ends: Sequence[str] | None) -> Known:
        known = read(ends)
        report(known.rejections)
        return known

    return reading


def _read(read: Read, ends: tuple[str, str] | None, learned: Mapping[AddressKey, frozenset[str]]) -> Known:
    known = read(ends)
    known.learn(learned)
    return known


def _may_be_service(end: End) -> bool:
    """Whether an end may be a Service, which may have one port only."""
    return isinstance(end, HostName) or (isinstance(end, ObjectName) and end.kind == "Service")


def _port(protocol: int, text: str | None, *, is_required: bool) -> int | str | None:
    """Return the destination port: a number, 0 if the protocol has none, a name that must still be resolved, or None if none is given."""
    if text is None and not is_required and has_ports(protocol):
        return None
    if text is None or not has_ports(protocol):
        return _checked("--port", lambda value: parse_port(protocol, value), None)
    if _NUMBER.fullmatch(text):
        return _checked("--port", lambda value: parse_port(protocol, value), int(text))
    return text


def _evaluator(known: Known, name: EvaluatorName, *, with_audit: bool = False) -> Evaluator:
    kind = ReferenceEvaluator if name is EvaluatorName.REFERENCE else CompiledEvaluator
    return kind(known.store, deny_with=known.deny_with, enforcement=known.enforcement, with_audit=with_audit)


def _checked(flag: str, parse: Callable[[object], int], value: object) -> int:
    try:
        return parse(value)
    except ValueError as error:
        given = "" if value is None else f"{value!r} "
        raise SettingsError(f"{flag}: {given}{error}") from error


def _choice(flag: str, choices: type[_Choice], text: str) -> _Choice:
    try:
        return choices(text)
    except ValueError as error:
        raise SettingsError(f"{flag}: {text!r} must be one of {', '.join(choices)}") from error
