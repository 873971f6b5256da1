"""The command `names`: shows the addresses that a running agent has learned for the domain names in policies."""

import os

from collections.abc import Sequence

from netpolq.cli.command import Command, first_argument, plain
from netpolq.errors import ExitCode, NetpolqError
from netpolq.settings.command_flags import NAMES_OPTIONS, OUTPUT
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment


def _run(argv: Sequence[str]) -> int:
    from netpolq.supervisor import names_report, status_client  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    wanted, rest = first_argument(argv)
    values = Values(from_argv(NAMES_OPTIONS, rest), from_environment((RUN_DIR,), os.environ))
    found = names_report.matching(status_client.fetch_names(values[RUN_DIR]), wanted or "")
    if wanted and not found:
        raise NetpolqError(
            f"no address is known for the name {wanted!r}: no policy of a pod of this node uses it, or no pod has asked"
        )
    print((names_report.render_json if values[OUTPUT] == "json" else names_report.render_text)(found))
    return ExitCode.OK


NAMES = Command(
    run=_run,
    usage="[NAME] [flags]",
    summary="Show the addresses of domain names in policies.",
    about=(
        "NAME: a domain name, or *. and a name for all names below that. Without it, all names are shown. The addresses are those that DNS "
        "answers to pods of this node have given. The time left includes the grace period (--dns-grace of `netpolq run`).",
    ),
    groups=plain(*NAMES_OPTIONS),
    exit_codes={ExitCode.FAILED: "No address is known for NAME, or no agent answers."},
    examples=(
        "# show all names",
        "netpolq names",
        "# find out why a connection to a name is denied",
        "netpolq names www.example.com",
        "netpolq names '*.example.com' -o json",
    ),
)
