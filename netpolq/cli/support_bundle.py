"""The command `support-bundle`: writes one archive with what a report of a problem needs."""

import os
import re
import socket
import sys
import time

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from netpolq.cli.command import Command, plain
from netpolq.errors import ExitCode, NetpolqError, SettingsError
from netpolq.settings.command_flags import BUNDLE_FILE, BUNDLE_LOG, SUPPORT_BUNDLE_OPTIONS
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment

_STANDARD_OUTPUT = Path("-")


def _run(argv: Sequence[str]) -> int:
    from netpolq.supervisor.support_bundle.archive import Archive  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`
    from netpolq.supervisor.support_bundle.parts import parts  # noqa: PLC0415

    values = Values(from_argv(SUPPORT_BUNDLE_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    now_s = time.time()
    folder = _default_name(now_s)
    path = values[BUNDLE_FILE] or Path(f"{folder}.tar.gz")
    run_dir, log = values[RUN_DIR], values[BUNDLE_LOG]
    with _new_file(path) as stream, Archive(stream, folder=folder, now_s=now_s) as archive:
        for name, read in parts(run_dir, os.environ, log):
            archive.add(name, read)
    told = sys.stderr if path == _STANDARD_OUTPUT else sys.stdout
    for name, reason in archive.errors.items():
        print(f"{name} could not be read: {reason}", file=told)
    print(f"{'standard output' if path == _STANDARD_OUTPUT else path} has {len(archive.parts)} parts", file=told)
    return ExitCode.FAILED if archive.errors else ExitCode.OK


def _default_name(now_s: float) -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
    return f"netpolq-support-{host}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now_s))}"


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file for this user alone, or standard output for `-`. A file that cannot be completed is removed. Raises `NetpolqError`."""
    if path == _STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise SettingsError(f"flag --{BUNDLE_FILE.name}: standard output is a terminal; redirect it, or name a file")
        yield sys.stdout.buffer
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise NetpolqError(f"{str(path)!r} exists and is not overwritten; give another name to --{BUNDLE_FILE.name}") from error
    except OSError as error:
        raise NetpolqError(f"{str(path)!r} cannot be created: {error.strerror}; see --{BUNDLE_FILE.name}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise NetpolqError(f"{str(path)!r} cannot be written and was removed: {error.strerror}") from error
        raise


SUPPORT_BUNDLE = Command(
    run=_run,
    usage="[flags]",
    summary="Write one archive with what a report of a problem needs.",
    about=(
        "The archive has status, pods, names, settings, log verbosity and metrics of the running agent; a summary of the kept snapshot; "
        "the table inet netpolq; the kernel's table of queues, and count and limits of tracked connections; the versions of agent, Python, "
        "kernel and libraries; the variables that `netpolq run` reads. The command changes nothing, and works without an agent.",
        "It has names and addresses of pods, names of policies, domain names that pods asked for, and paths: look at it before you pass it "
        "on. It has no contents of a kubeconfig, no tokens, no labels of pods and no other variables, but a message about a rejected "
        "object may quote its fields. Each part has at most 8 MiB; what is cut has a note. errors.txt in the archive names each part that "
        "could not be read.",
    ),
    groups=plain(*SUPPORT_BUNDLE_OPTIONS),
    exit_codes={
        ExitCode.OK: "The archive has all parts.",
        ExitCode.FAILED: "A part could not be read, or the archive could not be written.",
    },
    examples=(
        "# in the current folder, with host name and time as its name",
        "netpolq support-bundle",
        "# with the last lines of the log",
        "netpolq support-bundle --log /var/log/netpolq.log --output /tmp/node-1.tar.gz",
        "# from a container whose file system cannot be written",
        "netpolq support-bundle --output - > node-1.tar.gz",
    ),
)
