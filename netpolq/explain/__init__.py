"""The work of `netpolq explain`: which policies decide a flow, from manifests. Needs no privileges and leaves the kernel alone."""

import re
import sys

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from netpolq.addresses import AddressKey
from netpolq.errors import ExitCode, NetpolqError, SettingsError
from netpolq.explain.batch import answer_all
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.explain.endpoints import choose_addresses, describe, parse_endpoint, resolve_port
from netpolq.explain.expect import Expected
from netpolq.explain.flow import has_ports, parse_port, parse_protocol
from netpolq.explain.manifests import load, report
from netpolq.explain.names import parse_names
from netpolq.explain.render import as_json, as_text
from netpolq.policy.evaluator import Evaluator
from netpolq.policy.name_reasons import NameReasonFinder
from netpolq.policy.near_miss import NearMissFinder
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store


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
    manifests: Path,
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

    `names`: the learned names, see `netpolq.explain.names`.
    `manifests`: a folder or a file. `source` and `destination`: see `parse_endpoint`. `port`: a number, or the name of a port of the
    destination pod. Answers go to standard output, rejections of manifests to standard error.

    Returns the exit code: 0 for any verdict, 8 if the verdict differs from `expect`, 1 if a line of a batch is invalid.
    Raises `SettingsError` for a malformed flag, `NetpolqError` for a pod or file that does not exist.
    """
    evaluator_name = _choice("--engine", EvaluatorName, evaluator)
    form = _choice("--output", Output, output)
    expected = None if expect is None else _choice("--expect", Expected, expect)
    learned = parse_names(names)
    if packets is not None:
        if source is not None or destination is not None:
            raise SettingsError("--packets cannot be combined with --src and --dst; each line names both")
        store = load(manifests, learned)
        report(store.rejections)
        return answer_all(_evaluator(store, evaluator_name), store, packets, expected)

    if source is None or destination is None:
        raise SettingsError(f"{'--src' if source is None else '--dst'}: required without --packets")
    number = _checked("--protocol", parse_protocol, protocol)
    # No policy matches the source port. It is accepted so that both endpoints can be copied from a log line.
    first_end, second_end = parse_endpoint("--src", source), parse_endpoint("--dst", destination)
    if port is not None and second_end.port is not None:
        raise SettingsError(
            f"--dst: the port of {destination!r} cannot be combined with --port {port!r}; allowed: one of the two"
        )
    given_port = _port(number, second_end.port if port is None else port)
    store = load(manifests, learned)
    report(store.rejections)
    first, second = choose_addresses(store, first_end.end, second_end.end)
    flow = first, second, number, _number_of(store, second, number, given_port)
    explanation = _evaluator(store, evaluator_name).explain(*flow, via_service=via_service)
    misses = NearMissFinder(store).find(explanation, *flow)
    reasons = NameReasonFinder(store).find(explanation.egress, *flow)
    answer = explanation, misses, reasons, describe(store, first), describe(store, second), *flow[2:]
    sys.stdout.write(as_json(*answer, store.rejections) if form is Output.JSON else as_text(*answer))
    return ExitCode.OK if expected is None or expected.is_met_by(explanation) else ExitCode.UNEXPECTED


def _port(protocol: int, text: str | None) -> int | str:
    """Return the destination port: a number, 0 if the protocol has none, or a name that must still be resolved."""
    if text is None or not has_ports(protocol):
        return _checked("--port", lambda value: parse_port(protocol, value), None)
    if _NUMBER.fullmatch(text):
        return _checked("--port", lambda value: parse_port(protocol, value), int(text))
    return text


def _number_of(store: Store, destination: AddressKey, protocol: int, port: int | str) -> int:
    if isinstance(port, int):
        return port
    try:
        return resolve_port(store.address_owners(), destination, protocol, port)
    except NetpolqError as error:
        raise NetpolqError(f"--port: {error}") from error


def _evaluator(store: Store, name: EvaluatorName) -> Evaluator:
    return ReferenceEvaluator(store) if name is EvaluatorName.REFERENCE else CompiledEvaluator(store)


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
