"""The program of the load test: see `python -m loadtest --help`."""

import json
import os
import signal
import sys

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from loadtest import machine, options, table
from loadtest.comparison import ComparedShape
from loadtest.document import Document, shape_document
from loadtest.lab import room_for_connections
from loadtest.measure import Shape
from loadtest.parameters import Parameters
from loadtest.report.page import render
from loadtest.run import run_shape
from loadtest.shapes import SHAPES

_MISSED = 1
_USAGE = 2
_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
    """Run the shapes of the command line. Returns the exit code."""
    wanted = options.parse(argv)
    if os.geteuid():
        _say("network namespaces and queues need root; try `sudo make bench`")
        return _USAGE
    try:
        with _signals_interrupt(), room_for_connections(4 * wanted.parameters.packets):
            return _measure(wanted)
    except KeyboardInterrupt:
        _say("interrupted; everything was removed")
        return _INTERRUPTED
    except RuntimeError as error:
        _say(str(error))
        return _MISSED


def _measure(wanted: options.Options) -> int:
    if wanted.output is not None:
        wanted.output.mkdir(parents=True, exist_ok=True)
    parameters = wanted.parameters
    document = Document(
        netpolq=version("netpolq"),
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.facts(),
        rounds=wanted.rounds,
        packets=parameters.packets,
        duration_s=parameters.duration_s,
        quick=parameters.quick,
        shapes=[],
    )
    if parameters.quick:
        _say("--quick: one round of tiny loads as a smoke test; the figures mean nothing")
    bad = False
    for name in wanted.shapes:
        result = run_shape(_shape(name, parameters), wanted.rounds, _say)
        bad |= result.is_bad
        document["shapes"].append(shape_document(result))
        for line in table.lines(document["shapes"][-1]):
            print(line, flush=True)
        if wanted.output is not None:  # after each shape, so that an interrupt does not lose earlier results
            _write(wanted.output, document)
    return _MISSED if bad else 0


def _shape(name: str, parameters: Parameters) -> Shape:
    shape = SHAPES[name](parameters)
    compared = ComparedShape(shape, parameters.compared, parameters.only)
    if parameters.compared and not compared.has_twins:
        _say(f"{name}: --compare and --compare-flags have no effect on this shape")
    if not compared.variants():
        raise RuntimeError(f"{name}: no variant matches --variants; there are: {', '.join(one.name for one in shape.variants())}")
    return compared


def _write(folder: Path, document: Document) -> None:
    (folder / "report.html").write_text(render(document), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(f"loadtest: {text}", file=sys.stderr, flush=True)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does. Further signals do not interrupt the cleanup."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
