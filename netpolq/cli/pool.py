"""The command line and the environment of the pool, which is the parent process of all workers."""

import sys

from collections.abc import Mapping

from netpolq.enums import VerdictCacheMode
from netpolq.settings import Settings
from netpolq.settings.options import ENVIRONMENT_PREFIX


def pool_command(settings: Settings) -> list[str]:
    """Return the command line of the pool. The pool starts the supervisor with the arguments after `--`."""
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
        # With `auto`, the cache depends on the verbosity, which can change at run time.
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
    """Return the environment of the pool and of every process below it.

    It has no `NETPOLQ_*` variables: `run` has resolved the settings, and no child process may resolve them differently. PYTHONSAFEPATH
    keeps `python -m` from importing modules from the working directory, which other users may be able to write to.
    """
    kept = {name: text for name, text in environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, "PYTHONSAFEPATH": "1"}
