"""`python -m netpolq_worker`: the pool as a program. Started by `netpolq run` with settings that are already checked."""

import os
import sys

from pathlib import Path

from netpolq.errors import BootError, NetpolqError
from netpolq.logs import configure
from netpolq.run_dir import prepare
from netpolq_worker.options import parse_options


def main() -> int:
    """Prepare the run directory and run the pool. Returns the exit code."""
    options = parse_options(sys.argv[1:])
    configure(options.logging_format, options.verbosity)
    # The multiprocess mode of prometheus_client. Memory replaces its files (`netpolq.counter_memory`): none is made in the folder.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(options.run_dir)
    # Only now, because prometheus_client looks at the variable when it is imported.
    from netpolq_worker.pool import Pool  # noqa: PLC0415

    try:
        pool = Pool(options)
        _prepare_run_dir(options.run_dir)
        return pool.run()
    except NetpolqError as error:
        sys.stderr.write(f"netpolq: error: {error}\n")
        return error.exit_code


def _prepare_run_dir(run_dir: Path) -> None:
    try:
        prepare(run_dir)
    except OSError as error:
        path = error.filename or str(run_dir)
        raise BootError(f"--run-dir {run_dir}: {path}: {error.strerror}; it must be a folder that the agent may write") from error


if __name__ == "__main__":
    sys.exit(main())
