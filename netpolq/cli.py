"""The `netpolq` command: reads the command line, calls what does the work, and turns expected errors into one line and an exit code.

What only one command needs is imported by that command, so that `explain` runs without the data plane and `run` starts quickly.
"""

import errno
import json
import os
import shutil
import sys

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from netpolq.enums import LoggingFormat, VerdictCacheMode
from netpolq.errors import AlreadyRunningError, ExitCode, NetpolqError, SettingsError
from netpolq.hold import command as hold_command
from netpolq.ipc import takeover
from netpolq.ipc.run_dir import IMAGE, IMAGE_DRAFT, STATUS_SOCKET, TAKEOVER_KEY, metrics_dirs
from netpolq.logs import write_error
from netpolq.settings import Settings, resolve
from netpolq.settings.command_flags import (
    CLEANUP_OPTIONS,
    DESTINATION,
    ENGINE,
    EXPECT,
    EXPLAIN_OPTIONS,
    MANIFESTS_TO_READ,
    OUTPUT,
    PACKETS,
    PORT,
    PROTOCOL,
    QUESTION,
    SOURCE,
    STATUS_OPTIONS,
)
from netpolq.settings.definitions import CONFIG, CT_LABEL, FILE_OPTIONS, LOGGING_FORMAT, OPTIONS, RUN_DIR, VERBOSITY
from netpolq.settings.options import (
    ENVIRONMENT_PREFIX,
    Given,
    Option,
    Values,
    from_environment,
    from_file,
    from_words,
    parse_given,
)
from netpolq.settings.usage import flag_list, grouped_flags, paragraph

_INTERRUPTED = 130
_READER_GONE = 141
"""128 and the number of SIGINT and of SIGPIPE: what a shell makes of a program that ends by them."""

_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF})
"""What a write to standard output ends with when the reader is a file."""

_HELP_FLAGS = frozenset({"-h", "-help", "--help"})
_RUN_DIR_FILES = (IMAGE, IMAGE_DRAFT, STATUS_SOCKET, TAKEOVER_KEY)

_EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.OK: "done, or ended by SIGTERM",
    ExitCode.FAILED: "something went wrong; the agent is not ready, or none answers (status); a bad line among the packets (explain)",
    ExitCode.USAGE: "a flag, environment variable or file entry is wrong",
    ExitCode.PRIVILEGES: "privileges are missing: root, or CAP_NET_ADMIN and what else the message names",
    ExitCode.QUEUE_TAKEN: "another program serves one of the queues",
    ExitCode.KERNEL: "the kernel lacks something without which nothing can be enforced",
    ExitCode.ALREADY_RUNNING: "another agent serves this network namespace",
    ExitCode.BOOT: "the agent cannot start, and trying again would not help",
    ExitCode.UNEXPECTED: "the verdict is not the one that --expect names (explain)",
}


class Command(NamedTuple):
    """A command. `run` takes the words after its name and returns the exit code. `summary` empty: not listed.

    `examples`: whole command lines, each behind a comment on what it does, for the end of the command's help.
    """

    run: Callable[[Sequence[str]], int]
    arguments: str
    summary: str
    details: Callable[[], str]
    examples: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. `argv` is without the program's name. Returns the exit code; expected errors are one line on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        if sys.stdout is not None:  # None: closed by the shell
            sys.stdout.flush()
    except NetpolqError as error:
        write_error(str(error), _logging_format(words, os.environ))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        if words[0] == "supervise":  # it prints nothing, so this is no reader that had enough
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
    """Send what is left of the output nowhere: the interpreter flushes once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _logging_format(words: Sequence[str], environ: Mapping[str, str]) -> LoggingFormat:
    """The shape of the log that a command would write; text where that cannot be told, or where the command has no log."""
    if not words or words[0] not in {"run", "supervise"}:
        return LoggingFormat.TEXT
    given = environ.get(LOGGING_FORMAT.environment, "")
    with suppress(SettingsError):
        file = _word_of(CONFIG, words[1:]) or environ.get(CONFIG.environment, "")
        if not given and file:
            layer = from_file(FILE_OPTIONS, Path(file))
            given = layer[LOGGING_FORMAT.name].text if LOGGING_FORMAT.name in layer else ""
    given = _word_of(LOGGING_FORMAT, words[1:]) or given
    return LoggingFormat.JSON if given == LoggingFormat.JSON.value else LoggingFormat.TEXT


def _word_of(option: Option[object], words: Sequence[str]) -> str:
    """The last value that words give an option, whatever is wrong with the others; empty if none."""
    found = ""
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, equals, text = word.partition("=")
        if name in {f"--{option.name}", f"-{option.name}"}:
            found = text if equals else following
    return found


def _dispatch(words: Sequence[str]) -> int:
    if not words:
        print(_overview(), end="", file=sys.stderr)
        return ExitCode.USAGE
    name, *rest = words
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


def pool_command(settings: Settings) -> list[str]:
    """The command line of the pool, which starts the supervisor by the words after `--`."""
    return [
        sys.executable,
        "-m",
        "netpolq_worker",
        "--run-dir",
        str(settings.run_dir),
        "--queues",
        str(settings.queues),
        "--fail-open" if settings.fail_open else "--no-fail-open",
        "--mark-mask",
        hex(settings.mark_mask),
        # Whether the cache is on with `auto` depends on the verbosity, which changes at run time.
        "--no-hints" if settings.verdict_cache_mode is VerdictCacheMode.OFF else "--hints",
        "--takeover" if settings.takeover else "--no-takeover",
        "--logging-format",
        settings.logging_format.value,
        "--v",
        str(settings.verbosity),
        "--log-denied" if settings.log_denied else "--no-log-denied",
        "--",
        sys.executable,
        "-m",
        "netpolq",
        "supervise",
        *settings.to_argv(),
    ]


def pool_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the pool and all that it starts.

    Without our own variables: the settings are resolved by now, and nothing below may resolve them differently. `python -m` must not
    look for modules in the working directory (PYTHONSAFEPATH), which anybody may have filled.
    """
    kept = {name: text for name, text in environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, "PYTHONSAFEPATH": "1"}


_ORIGIN = "_NETPOLQ_ORIGIN"
"""What `run` was given, flags and environment, for a reload to begin with. Not one of our settings, so it reaches those who are started."""


def _origin(words: Sequence[str], environ: Mapping[str, str]) -> str:
    return json.dumps([list(words), {name: text for name, text in environ.items() if name.startswith(ENVIRONMENT_PREFIX)}])


def _reload(words: Sequence[str]) -> int:
    """Resolve the settings again and print the arguments that the pool would be started with, as JSON. Started by the pool on SIGHUP.

    `words`: the queues in use, which a takeover may have chosen.
    """
    origin = os.environ.get(_ORIGIN)
    if origin is None or len(words) != 1:
        raise SettingsError("`netpolq reload` is started by a running agent and by nobody else; send SIGHUP to that")
    given, environ = json.loads(origin)
    settings = _with_kubeconfig(resolve(given, environ), os.environ)
    first, last = map(int, words[0].split(":"))
    if settings.takeover and settings.queue_count == last - first + 1:
        settings = settings.with_queues(range(first, last + 1))
    print(json.dumps(pool_command(settings)[3:]))
    return ExitCode.OK


def _run(words: Sequence[str]) -> int:
    settings = resolve(words, os.environ)
    if settings.manifests is not None:
        _require_folder(settings.manifests)
        if settings.kubeconfig:
            raise SettingsError(f"--kubeconfig {settings.kubeconfig!r} cannot stand beside --manifests: there is one source")
    settings = _with_kubeconfig(settings, os.environ)
    if settings.takeover:
        settings = settings.with_queues(takeover.queues_beside(settings.queues.numbers))
    environment = {**pool_environment(os.environ), _ORIGIN: _origin(words, os.environ)}
    os.execve(sys.executable, pool_command(settings), environment)  # noqa: S606  # no shell is wanted


def _with_kubeconfig(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The settings with the files of KUBECONFIG where neither flag nor folder is given, and with `~` replaced.

    Relative paths stay: everything that the agent starts has the same working directory.
    """
    if settings.manifests is not None:
        return settings
    paths = settings.kubeconfig or environ.get("KUBECONFIG", "")
    return replace(settings, kubeconfig=":".join(os.path.expanduser(path) for path in paths.split(":") if path))  # noqa: PTH111  # Path raises without a home


def _supervise(words: Sequence[str]) -> int:
    from netpolq.supervisor import app  # noqa: PLC0415  # see the module's docstring

    return app.main(resolve(words, os.environ))


def _status(words: Sequence[str]) -> int:
    from netpolq.supervisor import status_client, status_report  # noqa: PLC0415  # see the module's docstring

    values = Values(from_words(STATUS_OPTIONS, words), from_environment((RUN_DIR,), os.environ))
    is_json = values[OUTPUT] == "json"
    try:
        found = status_client.fetch(values[RUN_DIR])
    except status_client.NoAgentError as error:
        raise _without_agent(error, is_json=is_json) from error
    print((status_report.render_json if is_json else status_report.render_text)(found))
    return ExitCode.OK if found.ready else ExitCode.FAILED


def _without_agent(error: NetpolqError, *, is_json: bool) -> NetpolqError:
    """Show the ruleset that an agent has left, if there is one. Returns the error with what else is known."""
    from netpolq.supervisor import orphaned_ruleset  # noqa: PLC0415  # see the module's docstring

    pid = takeover.running_agent()
    if pid is not None:
        return NetpolqError(f"{error} The agent of this network namespace (pid {pid}) has another one.")
    try:
        found = orphaned_ruleset.find()
    except PermissionError:
        return NetpolqError(f"{error} Run as root to see whether a ruleset is left.")
    except OSError as failure:
        return NetpolqError(f"{error} Whether a ruleset is left cannot be read: {failure.strerror}.")
    if found is None:
        return NetpolqError(f"{error} No ruleset is left.")
    print((orphaned_ruleset.render_json if is_json else orphaned_ruleset.render_text)(found), flush=True)
    return error


def _loglevel(words: Sequence[str]) -> int:
    from netpolq.supervisor import log_level  # noqa: PLC0415  # see the module's docstring

    number, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else (None, words)
    values = Values(from_words((RUN_DIR,), rest), from_environment((RUN_DIR,), os.environ))
    if number is None:
        print(f"log verbosity is {log_level.fetch(values[RUN_DIR])}")
    else:
        wanted = parse_given(VERBOSITY, Given("argument N", number))
        print(f"log verbosity is {wanted}, it was {log_level.change(values[RUN_DIR], wanted)}")
    return ExitCode.OK


def _cleanup(words: Sequence[str]) -> int:
    from netpolq.dataplane import install  # noqa: PLC0415  # see the module's docstring

    values = Values(from_words(CLEANUP_OPTIONS, words), from_environment(CLEANUP_OPTIONS, os.environ))
    run_dir, ct_label = values[RUN_DIR], values[CT_LABEL]
    pid = takeover.running_agent()
    if pid is not None:
        raise AlreadyRunningError(f"an agent serves this network namespace (pid {pid}); stop it first, then clean up")
    removed = [*install.cleanup(ct_label), *_clear_run_dir(run_dir)]
    print("\n".join(f"removed {line}" for line in removed) or "nothing to remove")
    return ExitCode.OK


def _clear_run_dir(run_dir: Path) -> list[str]:
    """Remove what an agent leaves in its run directory, and the directory if nothing else is in it. Returns what was removed."""
    removed = []
    try:
        for metrics in metrics_dirs(run_dir):
            shutil.rmtree(metrics)
            removed.append(str(metrics))
        for path in (run_dir / name for name in _RUN_DIR_FILES):
            if path.exists():
                path.unlink()
                removed.append(str(path))
        if run_dir.is_dir() and not run_dir.is_mount() and not any(run_dir.iterdir()):
            run_dir.rmdir()
            removed.append(str(run_dir))
    except OSError as error:
        raise NetpolqError(f"--run-dir {str(run_dir)!r}: cannot be cleared: {error}") from error
    return removed


def _hold(words: Sequence[str]) -> int:
    # Not the usual way: `netpolq hold` is dispatched in `netpolq.__main__`, before this module is imported.
    return hold_command.main(words, os.environ)


def _explain(words: Sequence[str]) -> int:
    from netpolq import explain  # noqa: PLC0415  # see the module's docstring

    values = Values(from_words(EXPLAIN_OPTIONS, words))
    if values[PACKETS] and (given := next(filter(None, map(values.given, QUESTION)), None)):
        raise SettingsError(f"{given.origin}: {given.text!r} cannot stand beside --packets; each line says it for itself")
    return explain.run(
        manifests=_require_manifests(values[MANIFESTS_TO_READ]),
        source=values[SOURCE] or None,
        destination=values[DESTINATION] or None,
        protocol=values[PROTOCOL],
        port=values[PORT] or None,
        packets=values[PACKETS] or None,
        evaluator=values[ENGINE],
        output=values[OUTPUT],
        expect=values[EXPECT] or None,
    )


def _require_manifests(path: Path | None) -> Path:
    """A folder, or a file that can be read."""
    if path is None or not path.is_file():
        return _require_folder(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(
            f"--manifests {str(path)!r}: {error.strerror}; allowed: a folder or a file that can be read"
        ) from error
    return path


def _require_folder(folder: Path | None) -> Path:
    if folder is None:
        raise SettingsError("--manifests DIR is required")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise SettingsError(f"--manifests {str(folder)!r}: {error.strerror}; allowed: a folder that can be read") from error
    return folder


def _version(words: Sequence[str]) -> int:
    from_words((), words)
    print(f"netpolq {version('netpolq')}")
    return ExitCode.OK


def _help(words: Sequence[str]) -> int:
    name, *rest = words or ("",)
    if rest:
        raise SettingsError(f"argument {rest[0]!r} is not expected here; one command can be named")
    if name:
        _command(name)
    print(_help_page(name) if name else _overview(), end="")
    return ExitCode.OK


def _listed() -> dict[str, Command]:
    return {name: command for name, command in COMMANDS.items() if command.summary}


def _overview() -> str:
    lines = [f"  {name:<9} {command.summary}" for name, command in _listed().items()]
    return "\n".join(["usage: netpolq COMMAND [flags]", "", *lines, "", "netpolq help COMMAND tells the rest.", ""])


def _help_page(name: str) -> str:
    if name == "hold":
        return hold_command.HELP
    command = COMMANDS[name]
    usage = " ".join(part for part in ("usage: netpolq", name, command.arguments) if part)
    examples = "\n".join(["Examples:", *(f"  {line}" for line in command.examples)]) if command.examples else ""
    return "\n\n".join(part for part in (usage, command.summary, command.details().rstrip("\n"), examples) if part) + "\n"


def _run_details() -> str:
    paragraphs = (
        "The agent stays in the foreground and enforces in the network namespace it is started in. SIGTERM ends it and leaves the "
        "rules in place, so that a restart opens nothing: `netpolq cleanup` removes them. SIGHUP has it read the file of --config "
        "again: what workers are not concerned with, and what is logged, changes at once; if anything else has changed, the log names it.",
        "Every flag can also be set by its environment variable or, under its name without dashes, in the TOML file that --config "
        "names. The flag counts before the environment, the environment before the file, the file before the default.",
        "`--flag VALUE`, `--flag=VALUE`, `-flag VALUE` and `-flag=VALUE` mean the same. A flag shown with [=BOOL] stands alone for "
        "true and never takes the next word for its value. Flags marked * are those of the kube-network-policies agent.",
    )
    codes = "\n".join(f"  {code.value}  {text}" for code, text in _EXIT_CODES.items())
    return "\n\n".join((*map(paragraph, paragraphs), grouped_flags(OPTIONS) + f"\nExit codes:\n{codes}"))


def _loglevel_details() -> str:
    about = paragraph(
        f"N: {VERBOSITY.allowed}, as in --v. {VERBOSITY.help} It holds for all processes of the agent until it is changed again, until "
        "SIGHUP, or until the agent is restarted: the last two bring back what flags, environment and file say. Where it begins or ends "
        "to be 2 or more, the agent takes up all policies once more, as with SIGHUP."
    )
    return f"{about}\n\n{flag_list((RUN_DIR,), environment=(RUN_DIR,))}"


def _explain_details() -> str:
    about = paragraph(
        "Either --src and --dst, or --packets. Needs neither an agent nor privileges. Where a connection is denied, the answer says for "
        "each isolating policy what of its closest rule does not match (peer, port or protocol), and the smallest addition that would "
        "allow it."
    )
    return f"{about}\n\n{flag_list(EXPLAIN_OPTIONS, environment=())}"


_EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "run": (
        "# enforce the manifests of a folder in this network namespace; connections wait or fail where none can be evaluated",
        "netpolq run --manifests /etc/netpolq/manifests --no-fail-open",
        "# a line for each denied connection, in JSON",
        "netpolq run --config /etc/netpolq/netpolq.toml --log-denied --logging-format json",
    ),
    "status": (
        "# is the newest policy in force, and on which workers",
        "netpolq status",
        "# for a program",
        "netpolq status -o json",
    ),
    "loglevel": (
        "# the present verbosity",
        "netpolq loglevel",
        "# a line for each first packet, and then as before",
        "netpolq loglevel 2",
        "netpolq loglevel 0",
    ),
    "cleanup": (
        "# after the agent has been stopped for good",
        "netpolq cleanup",
        "# an agent that had other settings",
        "netpolq cleanup --run-dir /run/other --ct-label 40",
    ),
    "explain": (
        "# does the frontend reach the database, and if not, what is missing",
        "netpolq explain --manifests manifests --src shop/frontend --dst shop/db --port 5432",
        "# a named port; one file; addresses of which no pod need be known",
        "netpolq explain --manifests policies.yaml --src 192.0.2.7 --dst shop/db:postgres",
        "netpolq explain --manifests manifests --src [fd00::7] --dst [fd00::1]:5432 -o json",
        "# a test in CI: exit code 8 if the connection is allowed",
        "netpolq explain --manifests manifests --src other/pod --dst shop/db --port 5432 --expect deny",
        "# many questions, one JSON object a line",
        "netpolq explain --manifests manifests --packets questions.jsonl",
    ),
    "version": ("netpolq version",),
    "help": ("netpolq help explain",),
}
"""Each was run, with manifests like those of its test."""

COMMANDS: Mapping[str, Command] = {
    "run": Command(_run, "[flags]", "Enforce network policies (the agent).", _run_details, _EXAMPLES["run"]),
    "status": Command(
        _status,
        "[flags]",
        "Show what a running agent does.",
        lambda: flag_list(STATUS_OPTIONS, environment=(RUN_DIR,)),
        _EXAMPLES["status"],
    ),
    "loglevel": Command(
        _loglevel,
        "[N] [flags]",
        "Show or change how much a running agent logs.",
        _loglevel_details,
        _EXAMPLES["loglevel"],
    ),
    "cleanup": Command(
        _cleanup,
        "[flags]",
        "Remove what a stopped agent left in the kernel and on disk.",
        lambda: flag_list(CLEANUP_OPTIONS, environment=CLEANUP_OPTIONS),
        _EXAMPLES["cleanup"],
    ),
    "hold": Command(_hold, "[flags]", "Drop the traffic of this node's pods until an agent enforces.", str, ()),
    "explain": Command(
        _explain,
        "--manifests PATH [flags]",
        "Tell offline which policies decide a connection.",
        _explain_details,
        _EXAMPLES["explain"],
    ),
    "version": Command(_version, "", "Print the version.", str, _EXAMPLES["version"]),
    "help": Command(_help, "[COMMAND]", "Show this list, or all about a command.", str, _EXAMPLES["help"]),
    "supervise": Command(_supervise, "[flags]", "", _run_details),
    "reload": Command(_reload, "", "", str),
}
