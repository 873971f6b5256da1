"""`python -m netpolq_worker`: the pool as a program. Started by `netpolq run` with settings that are already checked."""

import os
import shutil
import sys

from netpolq.errors import BootError, NetpolqError
from netpolq.logs import configure, write_error
from netpolq.run_dir import metrics_dirs
from netpolq_worker.capabilities import give_up_unneeded
from netpolq_worker.options import PoolOptions, parse_options


def main() -> int:
    """Prepare the run directory and run the pool. Returns the exit code. The error of a failed start is the last line it writes."""
    options = parse_options(sys.argv[1:])
    configure(options.logging_format, options.verbosity)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(options.metrics_dir)
    # Only now, because prometheus_client looks at the variable when it is imported.
    from netpolq_worker.pool import Pool  # noqa: PLC0415

    try:
        pool = Pool(options)
        _prepare_run_dir(options)
        _give_up_capabilities(options)
        return pool.run()
    except NetpolqError as error:
        write_error(str(error), options.logging_format)
        return error.exit_code


def _prepare_run_dir(options: PoolOptions) -> None:
    """Only root may look into the run directory; the counters of an earlier pool would be added to ours."""
    try:
        options.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        options.run_dir.chmod(0o700)
        # While an agent is taken over from, it still uses its own.
        for stale in (options.metrics_dir,) if options.takeover else metrics_dirs(options.run_dir):
            shutil.rmtree(stale, ignore_errors=True)
        options.metrics_dir.mkdir(mode=0o700)
    except OSError as error:
        raise BootError(f"--run-dir {options.run_dir}: {error.strerror}; it must be a folder that the agent may write") from error


def _give_up_capabilities(options: PoolOptions) -> None:
    try:
        give_up_unneeded(options.run_dir)
    except OSError as error:
        raise BootError(f"capabilities that are not needed cannot be given up: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
