"""The pool as a program, `python -m netpolq_worker DOCUMENT`. `netpolq run` starts it; see `netpolq.ipc.settings_document`."""

import os
import resource
import sys

from collections.abc import Sequence
from pathlib import Path

from netpolq.enums import LoggingFormat
from netpolq.errors import BootError, NetpolqError, SettingsError
from netpolq.ipc import settings_document
from netpolq.ipc.run_dir import prepare
from netpolq.logs import configure, write_error
from netpolq_worker.capabilities import drop_unneeded

_DESCRIPTORS = 128
"""Descriptors that the pool needs beside its workers: some 30, and room for connections of other agents and snapshots in transit."""

_DESCRIPTORS_PER_WORKER = 8
"""Two for the queue, one for its statistics, channel, metrics memory; and those of a replacement before the pool reaps the dead worker."""


_SUPERVISOR = (sys.executable, "-m", "netpolq", "supervise")


def main(argv: Sequence[str], supervisor: Sequence[str] = _SUPERVISOR) -> int:
    """Prepare the run directory and run the pool. Returns the exit code. A failed start writes its error as the last line.

    `argv`: the settings document. `supervisor`: the command line of the supervisor, to which the pool adds the document.
    """
    try:
        settings = settings_document.decode(" ".join(argv))
    except SettingsError as error:
        write_error(str(error), LoggingFormat.TEXT)
        return error.exit_code
    configure(settings.logging_format, settings.verbosity)
    # The multiprocess mode of prometheus_client. Memory replaces its files (`netpolq.ipc.counter_memory`): it writes none here.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.run_dir)
    # Imported here, because prometheus_client reads the variable when it is imported.
    from netpolq_worker.pool.main import Pool  # noqa: PLC0415

    try:
        _raise_descriptor_limit(settings.queue_count)
        pool = Pool(settings, supervisor)
        _prepare_run_dir(settings.run_dir)
        _drop_capabilities()
        return pool.run()
    except NetpolqError as error:
        write_error(str(error), settings.logging_format)
        return error.exit_code


def _raise_descriptor_limit(workers: int) -> None:
    """Raise the limit of open files to what the workers need. Raises `BootError` if the hard limit is lower."""
    wanted = _DESCRIPTORS + workers * _DESCRIPTORS_PER_WORKER
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BootError(f"{workers} workers need {wanted} open files and the limit is {hard}: raise it (LimitNOFILE=, ulimit -n)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _prepare_run_dir(run_dir: Path) -> None:
    try:
        prepare(run_dir)
    except OSError as error:
        path = error.filename or str(run_dir)
        raise BootError(
            f"--run-dir {run_dir}: {path}: {error.strerror}; it must be a directory that the agent may write"
        ) from error


def _drop_capabilities() -> None:
    try:
        drop_unneeded()
    except OSError as error:
        raise BootError(f"cannot drop the capabilities that are not needed: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
