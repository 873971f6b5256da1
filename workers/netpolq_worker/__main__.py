"""`python -m netpolq_worker`: the pool as a program. Started by `netpolq run` with settings that are already checked."""

import os
import resource
import sys

from pathlib import Path

from netpolq.errors import BootError, NetpolqError
from netpolq.ipc.run_dir import prepare
from netpolq.logs import configure, write_error
from netpolq_worker.capabilities import give_up_unneeded
from netpolq_worker.pool.args import parse_options

_DESCRIPTORS = 128
"""What the pool needs beside its workers (some 30), with room for connections of other agents and snapshots on their way."""

_DESCRIPTORS_PER_WORKER = 8
"""Two for the queue, one for its statistics, channel, memory of counters, and what a successor takes before the dead one is let go."""


def main() -> int:
    """Prepare the run directory and run the pool. Returns the exit code. The error of a failed start is the last line it writes."""
    options = parse_options(sys.argv[1:])
    configure(options.logging_format, options.logging.verbosity)
    # The multiprocess mode of prometheus_client. Memory replaces its files (`netpolq.ipc.counter_memory`): none is made in the folder.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(options.run_dir)
    # Only now, because prometheus_client looks at the variable when it is imported.
    from netpolq_worker.pool.main import Pool  # noqa: PLC0415

    try:
        _raise_descriptor_limit(len(options.queues))
        pool = Pool(options)
        _prepare_run_dir(options.run_dir)
        _give_up_capabilities()
        return pool.run()
    except NetpolqError as error:
        write_error(str(error), options.logging_format)
        return error.exit_code


def _raise_descriptor_limit(workers: int) -> None:
    """Have as many descriptors as the queues need. Raises `BootError` if the hard limit is below that."""
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
        raise BootError(f"--run-dir {run_dir}: {path}: {error.strerror}; it must be a folder that the agent may write") from error


def _give_up_capabilities() -> None:
    try:
        give_up_unneeded()
    except OSError as error:
        raise BootError(f"capabilities that are not needed cannot be given up: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
