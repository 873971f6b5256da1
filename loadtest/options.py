"""The command line of the load test."""

import argparse
import re
import shlex

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.parameters import Compared, External, Parameters
from loadtest.shapes import SHAPES
from loadtest.verdict import ROUNDS_FOR_A_VERDICT

_QUICK_PACKETS = 5_000
_QUICK_DURATION_S = 0.3
_MAX_FLOWS = 500_000

_DESCRIPTION = """\
Measure netpolq under load, and compare it with references, in separate network namespaces on this machine.

A shape is a kind of load. It compares variants: references (no agent, a C program that accepts everything, an ipset chain), netpolq
with different settings, and other agents (--external). All variants of a shape stay open at the same time, each with its own node, pods
and agent. Every round loads each variant in turn. A result is the median of the ratios within the rounds."""

_EPILOG = """\
examples:
  python -m loadtest                                  all shapes, {rounds} rounds
  python -m loadtest new-flows workers                two shapes
  python -m loadtest --quick                          smoke test; the figures mean nothing
  python -m loadtest new-flows --output build/bench   with results.json and report.html
  python -m loadtest new-flows --rounds 11 --compare ../before
  python -m loadtest new-flows --rounds 101 --packets 40000 --compare-flags '--flows=off' --variants '^netpolq'
  python -m loadtest new-flows --external 'other=/usr/bin/other-agent --queue-id {{queue}} --policies {{policies}}'

Run no other load on the machine meanwhile. Needs root.

exit codes:
  0  no target was missed (the output marks undecided targets)
  1  a target was missed, or a shape could not be measured
  2  an invalid argument, or not root
  130  ended by Ctrl-C or SIGTERM, after a complete cleanup
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The parsed command line. `output` None: print only the table."""

    shapes: tuple[str, ...]
    rounds: int
    parameters: Parameters
    output: Path | None


def parse(argv: Sequence[str]) -> Options:
    """Read the command line. Ends the program with code 2 and a message that names the argument, or with 0 after --help and --list."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(rounds=ROUNDS_FOR_A_VERDICT),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = Parameters()
    parser.add_argument("shape", nargs="*", help="name of a shape (see --list; default: all shapes)")
    parser.add_argument("--list", action="store_true", help="list the shapes and exit")
    parser.add_argument(
        "--rounds",
        type=_at_least_one,
        default=ROUNDS_FOR_A_VERDICT,
        metavar="N",
        help=f"number of rounds; fewer than {ROUNDS_FOR_A_VERDICT} give no verdict (default %(default)s)",
    )
    parser.add_argument(
        "--packets",
        type=_packets,
        default=defaults.packets,
        metavar="N",
        help="packets of one load, for shapes that count packets (default %(default)s)",
    )
    parser.add_argument(
        "--duration",
        type=_seconds,
        default=defaults.duration_s,
        metavar="S",
        help="seconds of one load, for shapes that measure over a time (default %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smoke test: one round of tiny loads on small clusters. Its figures mean nothing",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write results.json and report.html into this folder")
    parser.add_argument(
        "--external",
        type=_external,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another agent to compare, for shapes that load packets. {queue} is replaced by its queue number, {policies} by the folder of "
        "manifests. It runs in the node's namespace, and one iptables rule sends all new flows to it",
    )
    parser.add_argument(
        "--compare",
        type=_checkout,
        action="append",
        default=[],
        metavar="CHECKOUT",
        help="load netpolq once more with the code of another checkout, e.g. a git worktree with an earlier commit, and show the ratio of "
        "this one to it for each value with a target",
    )
    parser.add_argument(
        "--compare-flags",
        type=_flags,
        action="append",
        default=[],
        metavar="FLAGS",
        help="load netpolq once more with these flags of `netpolq run` besides, and show the ratio of netpolq without them to it",
    )
    parser.add_argument(
        "--variants",
        type=_pattern,
        metavar="REGEX",
        help="load only the variants whose names match, for many rounds of a few; targets of others are left out. The name of a twin ends "
        "with its comparison in brackets",
    )
    arguments = parser.parse_args(argv)
    if arguments.list:
        width = max(map(len, SHAPES))
        for name, shape in SHAPES.items():
            print(f"{name:{width}}  {shape(defaults).title}")
        parser.exit(0)
    for name in arguments.shape:
        if name not in SHAPES:
            parser.error(f"no shape is called {name!r}; there are: {', '.join(SHAPES)}")
    names = [external.name for external in arguments.external]
    if len(set(names)) < len(names):
        parser.error("--external: the same name twice")
    compared = [*arguments.compare, *arguments.compare_flags]
    if len(set(compared)) < len(compared):
        parser.error("--compare, --compare-flags: the same comparison twice")
    quick: bool = arguments.quick
    return Options(
        shapes=tuple(name for name in SHAPES if not arguments.shape or name in arguments.shape),
        rounds=1 if quick else arguments.rounds,
        parameters=Parameters(
            packets=_QUICK_PACKETS if quick else arguments.packets,
            duration_s=_QUICK_DURATION_S if quick else arguments.duration,
            quick=quick,
            externals=tuple(arguments.external),
            compared=tuple(compared),
            only=arguments.variants,
        ),
        output=arguments.output,
    )


def _at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1 on")
    return int(word)


def _packets(word: str) -> int:
    number = _at_least_one(word)
    if not 1_000 <= number <= _MAX_FLOWS:
        # Each packet is a separate flow, and the source ports of a pod are limited.
        raise argparse.ArgumentTypeError(f"{word} is not from 1000 to {_MAX_FLOWS}")
    return number


def _seconds(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of seconds from 0.1 to 3600")
    return number


def _checkout(word: str) -> Compared:
    folder = Path(word).resolve()
    for package in ("netpolq", "workers/netpolq_worker"):
        if not (folder / package / "__init__.py").is_file():
            raise argparse.ArgumentTypeError(f"{word!r} is no checkout of netpolq: it has no package {package}")
    return Compared(checkout=folder)


def _pattern(word: str) -> re.Pattern[str]:
    try:
        return re.compile(word)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{word!r} is no regular expression: {error}") from error


def _flags(word: str) -> Compared:
    try:
        flags = tuple(shlex.split(word))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r}: {error}") from error
    if not flags or not flags[0].startswith("--"):
        raise argparse.ArgumentTypeError(f"{word!r} is no flag of netpolq run")
    return Compared(flags=flags)


def _external(word: str) -> External:
    name, separator, template = word.partition("=")
    if not separator or not name.strip() or not template.strip():
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=COMMAND")
    if "{queue}" not in template:
        raise argparse.ArgumentTypeError(f"{word!r}: without {{queue}} the agent cannot know which queue to serve")
    external = External(name=name.strip(), template=template)
    try:
        external.argv(0, Path("policies"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r}: {error}") from error
    return external
