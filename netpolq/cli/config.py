"""The command `config`: prints a configuration file with all defaults."""

from collections.abc import Sequence

from netpolq.cli.command import Command
from netpolq.errors import ExitCode
from netpolq.settings.options import from_argv


def _run(argv: Sequence[str]) -> int:
    from netpolq.settings.sample_file import sample_file  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    from_argv((), argv)
    print(sample_file(), end="")
    return ExitCode.OK


CONFIG_FILE = Command(
    run=_run,
    summary="Print a configuration file with all defaults.",
    about=("Every setting is a comment with its meaning and its default, so that the file changes nothing as it is.",),
    examples=(
        "# start from the defaults",
        "netpolq config > netpolq.toml",
    ),
)
