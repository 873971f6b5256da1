"""The command `status`: shows the state of a running agent, or the ruleset that a stopped agent left."""

import os

from collections.abc import Sequence

from netpolq.cli.command import Command, plain
from netpolq.errors import ExitCode, NetpolqError
from netpolq.ipc import takeover
from netpolq.settings.command_flags import OUTPUT, STATUS_OPTIONS
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment


def _run(argv: Sequence[str]) -> int:
    from netpolq.supervisor import status_client, status_report  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    values = Values(from_argv(STATUS_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    is_json = values[OUTPUT] == "json"
    try:
        found = status_client.fetch(values[RUN_DIR])
    except status_client.NoAgentError as error:
        raise _without_agent(error, is_json=is_json) from error
    print((status_report.render_json if is_json else status_report.render_text)(found))
    return ExitCode.OK if found.ready else ExitCode.FAILED


def _without_agent(error: NetpolqError, *, is_json: bool) -> NetpolqError:
    """Print the ruleset that a stopped agent left, if there is one. Returns the error, extended by what else was found."""
    from netpolq.supervisor import orphaned_ruleset  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    pid = takeover.running_agent()
    if pid is not None:
        return NetpolqError(f"{error} The agent of this network namespace (pid {pid}) has another one.")
    try:
        found = orphaned_ruleset.find()
    except PermissionError:
        return NetpolqError(f"{error} Run as root to see whether a ruleset is left.")
    except OSError as failure:
        return NetpolqError(f"{error} The kernel's rulesets cannot be read: {failure.strerror}.")
    if found is None:
        return NetpolqError(f"{error} No ruleset is left.")
    print((orphaned_ruleset.render_json if is_json else orphaned_ruleset.render_text)(found), flush=True)
    return error


STATUS = Command(
    run=_run,
    usage="[flags]",
    summary="Show the state of a running agent.",
    groups=plain(*STATUS_OPTIONS),
    examples=(
        "# show whether the newest policies are in force, and on which workers",
        "netpolq status",
        "# the same as JSON",
        "netpolq status -o json",
    ),
)
