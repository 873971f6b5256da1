"""The entry point `main`: selects the command, and turns expected errors into one line and an exit code.

A command imports inside its function what no other command needs, so that `explain` runs without the data plane and `run` starts quickly.
"""

import errno
import os
import sys

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from netpolq.cli import completion
from netpolq.cli.cleanup import CLEANUP
from netpolq.cli.command import Command, plain
from netpolq.cli.config import CONFIG_FILE
from netpolq.cli.explain import EXPLAIN
from netpolq.cli.flows import FLOWS
from netpolq.cli.loglevel import LOGLEVEL
from netpolq.cli.names import NAMES
from netpolq.cli.pods import PODS
from netpolq.cli.reachability import DIFF, MATRIX
from netpolq.cli.recommend import RECOMMEND
from netpolq.cli.run import RELOAD, RUN, SUPERVISE
from netpolq.cli.status import STATUS
from netpolq.cli.support_bundle import SUPPORT_BUNDLE
from netpolq.cli.ui import UI
from netpolq.enums import LoggingFormat
from netpolq.errors import ExitCode, NetpolqError, SettingsError
from netpolq.hold import command as hold_command
from netpolq.ipc import settings_document
from netpolq.logs import write_error
from netpolq.settings.command_flags import HOLD_OPTIONS
from netpolq.settings.definitions import CONFIG, FILE_OPTIONS, LOGGING_FORMAT
from netpolq.settings.options import Option, from_argv, from_file

_INTERRUPTED = 130
_READER_GONE = 141
"""128 plus the number of SIGINT or SIGPIPE: the exit code that a shell reports for a program that a signal ended."""

_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF})
"""Errors of a write to standard output when it is a file."""

_HELP_FLAGS = frozenset({"-h", "-help", "--help"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. `argv` is without the program's name. Returns the exit code; expected errors are one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        if sys.stdout is not None:  # None: closed by the shell
            sys.stdout.flush()
    except NetpolqError as error:
        write_error(str(error), _logging_format(arguments, os.environ))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        if arguments[0] == "supervise":  # it prints nothing, so the broken pipe is not standard output
            raise
        _discard_output()
        return _READER_GONE
    except OSError as error:
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            raise
        _discard_output()
        write_error(f"standard output: {os.strerror(error.errno or 0)}", LoggingFormat.TEXT)
        return ExitCode.FAILED
    return code


def _discard_output() -> None:
    """Redirect standard output to /dev/null: the interpreter flushes it again at exit and would report the error a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _logging_format(argv: list[str], environ: Mapping[str, str]) -> LoggingFormat:
    """Return the log format of the command. Text if the command has no log or the format cannot be determined."""
    if argv[:1] == ["supervise"]:
        with suppress(SettingsError):
            return settings_document.decode(" ".join(argv[1:])).logging_format
    if argv[:1] != ["run"]:
        return LoggingFormat.TEXT
    given = environ.get(LOGGING_FORMAT.environment, "")
    with suppress(SettingsError):
        file = _last_value(CONFIG, argv[1:]) or environ.get(CONFIG.environment, "")
        if not given and file:
            layer = from_file(FILE_OPTIONS, Path(file))
            given = layer[LOGGING_FORMAT.name].text if LOGGING_FORMAT.name in layer else ""
    given = _last_value(LOGGING_FORMAT, argv[1:]) or given
    return LoggingFormat.JSON if given == LoggingFormat.JSON.value else LoggingFormat.TEXT


def _last_value(option: Option[object], argv: Sequence[str]) -> str:
    """Return the last value of an option, even if other arguments are invalid. Empty if the option is not given."""
    found = ""
    for argument, following in zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, text = argument.partition("=")
        if name in {f"--{option.name}", f"-{option.name}"}:
            found = text if equals else following
    return found


def _dispatch(argv: Sequence[str]) -> int:
    if not argv:
        print(_overview(), end="", file=sys.stderr)
        return ExitCode.USAGE
    name, *rest = argv
    if name in _HELP_FLAGS:
        name = "help"
    elif name in {"-version", "--version"}:
        name = "version"
    command = _command(name)
    if not _HELP_FLAGS.isdisjoint(rest):
        print(_help_page(name), end="")
        return ExitCode.OK
    return command.run(rest)


def _command(name: str) -> Command:
    try:
        return COMMANDS[name]
    except KeyError:
        raise SettingsError(f"command {name!r} does not exist; allowed: {', '.join(_listed())}") from None


def _hold(argv: Sequence[str]) -> int:
    # Not the usual path: `netpolq.__main__` dispatches `netpolq hold` before it imports this package.
    return hold_command.main(argv, os.environ)


def _version(argv: Sequence[str]) -> int:
    from importlib.metadata import version  # noqa: PLC0415  # see the module's docstring

    from_argv((), argv)
    print(f"netpolq {version('netpolq')}")
    return ExitCode.OK


def _help(argv: Sequence[str]) -> int:
    name, *rest = argv or ("",)
    if rest:
        raise SettingsError(f"argument {rest[0]!r} is not expected here; allowed: the name of one command")
    if name:
        _command(name)
    print(_help_page(name) if name else _overview(), end="")
    return ExitCode.OK


def _completion(argv: Sequence[str]) -> int:
    if len(argv) != 1 or argv[0] not in completion.SHELLS:
        given = f"argument {argv[-1]!r} is not expected here" if argv else "a shell is required"
        raise SettingsError(f"{given}; allowed: {' or '.join(completion.SHELLS)}")
    print(completion.script(argv[0], _listed()), end="")
    return ExitCode.OK


def _man(argv: Sequence[str]) -> int:
    from netpolq.cli.manual import manual  # noqa: PLC0415  # see the module's docstring

    from_argv((), argv)
    print(manual(_listed()), end="")
    return ExitCode.OK


def _listed() -> dict[str, Command]:
    return {name: command for name, command in COMMANDS.items() if command.summary}


def _overview() -> str:
    lines = [f"  {name:<14} {command.summary}" for name, command in _listed().items()]
    return "\n".join(
        ["usage: netpolq COMMAND [flags]", "", *lines, "", "Run `netpolq help COMMAND` for the flags of a command.", ""]
    )


def _help_page(name: str) -> str:
    return hold_command.HELP if name == "hold" else COMMANDS[name].help_page(name)


COMMANDS: Mapping[str, Command] = {
    "run": RUN,
    "status": STATUS,
    "pods": PODS,
    "names": NAMES,
    "flows": FLOWS,
    "ui": UI,
    "loglevel": LOGLEVEL,
    "support-bundle": SUPPORT_BUNDLE,
    "cleanup": CLEANUP,
    "hold": Command(
        run=_hold,
        usage="[flags]",
        summary="Drop the traffic of this node's pods until an agent enforces policies.",
        groups=plain(*HOLD_OPTIONS),
    ),
    "explain": EXPLAIN,
    "matrix": MATRIX,
    "diff": DIFF,
    "recommend": RECOMMEND,
    "config": CONFIG_FILE,
    "completion": Command(
        run=_completion,
        usage=f"{'|'.join(completion.SHELLS)}",
        summary="Print a script that completes commands, flags and values.",
        words=completion.SHELLS,
        examples=(
            "# for all users",
            "netpolq completion bash > /etc/bash_completion.d/netpolq",
            "netpolq completion zsh > /usr/local/share/zsh/site-functions/_netpolq",
            "# for one shell: source <(netpolq completion bash)",
        ),
    ),
    "man": Command(
        run=_man,
        summary="Print the manual page.",
        examples=(
            "# read it",
            "netpolq man | man -l -",
            "# install it",
            "netpolq man > /usr/local/share/man/man1/netpolq.1",
        ),
    ),
    "version": Command(run=_version, summary="Print the version.", examples=("netpolq version",)),
    "help": Command(
        run=_help,
        usage="[COMMAND]",
        summary="Show the list of commands, or the help page of one.",
        examples=("netpolq help explain",),
    ),
    "supervise": SUPERVISE,
    "reload": RELOAD,
}
