"""`netpolq explain`: which policies decide a flow, offline, from a folder of manifests. Needs no privileges and touches no kernel."""

import sys

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from netpolq.errors import ExitCode, SettingsError
from netpolq.explain.batch import answer_all
from netpolq.explain.endpoints import choose_addresses, describe, parse_endpoint
from netpolq.explain.flow import parse_port, parse_protocol
from netpolq.explain.render import as_json, as_text
from netpolq.logs import one_line
from netpolq.model import Rejection
from netpolq.policy.compiled import SnapshotEngine
from netpolq.policy.engine import Engine
from netpolq.policy.reference import ReferenceEngine
from netpolq.sources.manifests import load
from netpolq.store import Store


class EngineName(StrEnum):
    """Which evaluator answers: the bytes that workers read, or the slow walk over the objects."""

    SNAPSHOT = "snapshot"
    REFERENCE = "reference"


class Output(StrEnum):
    """Shape of the answer to a single question; a batch is always JSON lines."""

    TEXT = "text"
    JSON = "json"


_Choice = TypeVar("_Choice", bound=StrEnum)


def run(
    *,
    manifests: Path,
    source: str | None,
    destination: str | None,
    protocol: str,
    port: int | None,
    packets: str | None,
    engine: str,
    output: str,
) -> int:
    """Answer one question (`source`, `destination`, `protocol`, `port`) or a file of them (`packets`; `-` is standard input).

    `source` and `destination`: an IP address or ns/pod. Answers go to standard output, what the folder has that cannot be used as
    written to standard error. Returns the exit code: 0 whatever the verdict, 1 if a line of a batch was bad.
    Raises `SettingsError` for a malformed flag, `NetpolqError` for a pod or file that is not there.
    """
    engine_name = _choice("--engine", EngineName, engine)
    shape = _choice("--output", Output, output)
    if packets is not None:
        if source is not None or destination is not None:
            raise SettingsError("--packets: each line names both ends, so --src and --dst must be left out")
        return answer_all(_engine(_load(manifests), engine_name), packets)

    if source is None or destination is None:
        raise SettingsError(f"{'--src' if source is None else '--dst'}: needed unless --packets is given")
    number = _checked("--protocol", parse_protocol, protocol)
    checked_port = _checked("--port", lambda value: parse_port(number, value), port)
    ends = parse_endpoint("--src", source), parse_endpoint("--dst", destination)
    store = _load(manifests)
    first, second = choose_addresses(store, *ends)
    explanation = _engine(store, engine_name).explain(first, second, number, checked_port)
    render = as_json if shape is Output.JSON else as_text
    sys.stdout.write(render(explanation, describe(store, first), describe(store, second), number, checked_port))
    return ExitCode.OK


def _load(manifests: Path) -> Store:
    store = Store()
    store.apply(load(manifests))
    _report(store.rejections)
    return store


def _report(rejections: Iterable[Rejection]) -> None:
    for rejection in rejections:
        sys.stderr.write(f"{one_line(str(rejection))}\n")


def _engine(store: Store, name: EngineName) -> Engine:
    if name is EngineName.REFERENCE:
        return ReferenceEngine(store)
    engine = SnapshotEngine(store)
    _report(engine.rejections)
    return engine


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
