"""The command `cleanup`: removes what a stopped agent left in the kernel and in its run directory."""

import os
import shutil

from collections.abc import Sequence
from pathlib import Path

from netpolq.cli.command import Command, plain
from netpolq.errors import AlreadyRunningError, ExitCode, NetpolqError
from netpolq.ipc import takeover
from netpolq.ipc.run_dir import FILES, metrics_dirs
from netpolq.settings.command_flags import CLEANUP_OPTIONS
from netpolq.settings.definitions import CT_LABEL, RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment


def _run(argv: Sequence[str]) -> int:
    from netpolq.dataplane import install  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    values = Values(from_argv(CLEANUP_OPTIONS, argv), from_environment(CLEANUP_OPTIONS, os.environ))
    run_dir, ct_label = values[RUN_DIR], values[CT_LABEL]
    pid = takeover.running_agent()
    if pid is not None:
        raise AlreadyRunningError(f"an agent serves this network namespace (pid {pid}); stop it first, then clean up")
    removed = [*install.cleanup(ct_label), *_clear_run_dir(run_dir)]
    print("\n".join(f"removed {line}" for line in removed) or "nothing to remove")
    return ExitCode.OK


def _clear_run_dir(run_dir: Path) -> list[str]:
    """Remove the agent's files from the run directory, and the directory itself if it is empty then. Returns the removed paths."""
    removed = []
    try:
        for metrics in metrics_dirs(run_dir):
            shutil.rmtree(metrics)
            removed.append(str(metrics))
        for path in (run_dir / name for name in FILES):
            if path.exists():
                path.unlink()
                removed.append(str(path))
        if run_dir.is_dir() and not run_dir.is_mount() and not any(run_dir.iterdir()):
            run_dir.rmdir()
            removed.append(str(run_dir))
    except OSError as error:
        raise NetpolqError(f"--run-dir {str(run_dir)!r}: cannot be cleared: {error}") from error
    return removed


CLEANUP = Command(
    run=_run,
    usage="[flags]",
    summary="Remove what a stopped agent left in the kernel and on disk.",
    groups=plain(*CLEANUP_OPTIONS),
    examples=(
        "# after you stop the agent for good",
        "netpolq cleanup",
        "# for an agent with other settings",
        "netpolq cleanup --run-dir /run/other --ct-label 40",
    ),
)
