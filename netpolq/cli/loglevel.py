"""The command `loglevel`: shows or changes the log verbosity of a running agent."""

import os

from collections.abc import Sequence

from netpolq.cli.command import Command, first_argument, plain
from netpolq.errors import ExitCode
from netpolq.ipc.agent_settings import MAX_VERBOSITY
from netpolq.settings.definitions import RUN_DIR, VERBOSITY
from netpolq.settings.options import Given, Values, from_argv, from_environment, parse_given


def _run(argv: Sequence[str]) -> int:
    from netpolq.supervisor import log_level  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    level, rest = first_argument(argv)
    values = Values(from_argv((RUN_DIR,), rest), from_environment((RUN_DIR,), os.environ))
    if level is None:
        print(f"log verbosity is {log_level.fetch(values[RUN_DIR])}")
    else:
        wanted = parse_given(VERBOSITY, Given("argument N", level))
        print(f"log verbosity is {wanted}, it was {log_level.change(values[RUN_DIR], wanted)}")
    return ExitCode.OK


LOGLEVEL = Command(
    run=_run,
    usage="[N] [flags]",
    summary="Show or change the log verbosity of a running agent.",
    about=(
        f"N: {VERBOSITY.value_type.allowed}, as for --v. {VERBOSITY.help} The level applies to all processes of the agent until the next "
        "change, SIGHUP or restart. SIGHUP and a restart return to the level of flags, environment and file. When the level crosses 2, "
        "the agent compiles all policies again, as after SIGHUP.",
    ),
    groups=plain(RUN_DIR),
    words=tuple(map(str, range(MAX_VERBOSITY + 1))),
    examples=(
        "# show the current verbosity",
        "netpolq loglevel",
        "# log the first packet of each connection, then stop",
        "netpolq loglevel 2",
        "netpolq loglevel 0",
    ),
)
