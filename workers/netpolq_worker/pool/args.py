"""Command line of the pool. `netpolq run` writes it from validated settings, so its errors are for developers."""

import argparse

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netpolq.enums import LoggingFormat
from netpolq.ipc.channel import Logging
from netpolq.ipc.run_dir import IMAGE, TAKEOVER_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The parsed command line.

    `queues`: the queue numbers, one worker each. `hints`: whether workers report the decisions that they look up again.
    `takeover`: whether to take over from a running agent. `logging`: what is logged at the start. `supervisor`: the command line of the
    supervisor; `argv`: the arguments before it, unparsed.
    """

    run_dir: Path
    queues: range
    fail_open: bool
    mark_mask: int
    hints: bool
    takeover: bool
    logging_format: LoggingFormat
    logging: Logging
    supervisor: tuple[str, ...]
    argv: tuple[str, ...]

    @property
    def takeover_key_path(self) -> Path:
        """The file with the takeover key, which an agent that takes over must read."""
        return self.run_dir / TAKEOVER_KEY

    @property
    def snapshot_path(self) -> Path:
        """The file with the newest snapshot, for the next start."""
        return self.run_dir / IMAGE


def parse_options(arguments: Sequence[str]) -> PoolOptions:
    """Parse the command line after the program's name. The arguments after `--` are the supervisor's command line."""
    parser = argparse.ArgumentParser(prog="netpolq_worker", allow_abbrev=False)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--queues", type=_queue_range, required=True, metavar="A:B")
    parser.add_argument("--fail-open", action=argparse.BooleanOptionalAction, required=True)
    parser.add_argument("--mark-mask", type=lambda text: int(text, 0), required=True)
    parser.add_argument("--hints", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--takeover", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--logging-format", type=LoggingFormat, default=LoggingFormat.TEXT)
    parser.add_argument("--v", type=int, default=0)
    parser.add_argument("--log-denied", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("supervisor", nargs="+")
    parsed = parser.parse_args(arguments)
    return PoolOptions(
        run_dir=parsed.run_dir,
        queues=parsed.queues,
        fail_open=parsed.fail_open,
        mark_mask=parsed.mark_mask,
        hints=parsed.hints,
        takeover=parsed.takeover,
        logging_format=parsed.logging_format,
        logging=Logging(parsed.v, parsed.log_denied),
        supervisor=tuple(parsed.supervisor),
        argv=tuple(arguments[: len(arguments) - len(parsed.supervisor)]),
    )


def _queue_range(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last) + 1)
