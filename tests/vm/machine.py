"""Boots a stock Debian kernel under software emulation, on this machine's own file system, and runs commands in it.

The guest has a /tmp, /run and /var of its own: what passes between it and the tests lies below `build/` of the checkout.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
JOB_DEADLINE_S = 1200
BOOT_DEADLINE_S = 300


class Outcome(NamedTuple):
    returncode: int
    output: str


class MachineError(Exception):
    """The machine did not boot or did not shut down in time."""


def stock_kernel() -> Path:
    """The newest installed kernel of the distribution that has its modules."""
    kernels = [
        path
        for path in Path("/boot").glob("vmlinuz-*-amd64")
        if (Path("/lib/modules") / path.name.removeprefix("vmlinuz-")).is_dir()
    ]
    if not kernels:
        raise MachineError("no kernel in /boot with modules in /lib/modules: run `make vm-setup`")
    return max(kernels, key=lambda path: [int(part) if part.isdigit() else -1 for part in path.name.replace("-", ".").split(".")])


def run_in_machine(jobs: Mapping[str, list[str]]) -> dict[str, Outcome]:
    """Boot once, run the jobs one after another from the checkout, and shut down. A job's standard output and error are one text."""
    vng = Path(sys.executable).parent / "vng"
    if not vng.exists():
        raise MachineError("virtme-ng is not installed: run `make vm-setup`")
    (ROOT / "build").mkdir(exist_ok=True)
    shared = Path(tempfile.mkdtemp(prefix="vm-", dir=ROOT / "build"))
    try:
        script = shared / "jobs.sh"
        script.write_text(_script(jobs, shared))
        script.chmod(0o755)
        console = _boot(vng, script, deadline_s=BOOT_DEADLINE_S + JOB_DEADLINE_S * len(jobs))
        return {name: _outcome(shared, name, console) for name in jobs}
    finally:
        shutil.rmtree(shared)
        with suppress(OSError):
            (ROOT / "build").rmdir()


def _script(jobs: Mapping[str, list[str]], shared: Path) -> str:
    """Flushes the caches after each job, because the machine is powered off without a shutdown."""
    lines = ["#!/bin/sh", f"cd {shlex.quote(str(ROOT))}", "export PYTHONDONTWRITEBYTECODE=1"]
    for name, command in jobs.items():
        output, status = (shlex.quote(str(shared / f"{name}.{suffix}")) for suffix in ("out", "status"))
        lines.append(f"timeout -k 10 {JOB_DEADLINE_S} {shlex.join(command)} >{output} 2>&1; echo $? >{status}")
    return "\n".join([*lines, "sync", ""])


def _boot(vng: Path, script: Path, *, deadline_s: float) -> str:
    """Returns the output of the machine. Leaves none of its processes, also after an error."""
    # The checkout is mounted by name, since it may lie below the machine's own /tmp. A session of its own: no terminal, and one group
    # to end the emulator with.
    machine = subprocess.Popen(
        [vng, "--run", stock_kernel(), "--disable-kvm", "--rw", "--rwdir", ROOT, "--cpus", "1", "--memory", "1G", "--", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "PATH": f"{vng.parent}:{os.environ['PATH']}"},
        text=True,
    )
    try:
        return machine.communicate(timeout=deadline_s)[0]
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"the machine did not finish within {deadline_s:.0f} s") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()
        if machine.stdout is not None:
            machine.stdout.close()


def _outcome(shared: Path, name: str, console: str) -> Outcome:
    status = shared / f"{name}.status"
    if not status.exists():
        raise MachineError(f"the machine ended before {name} did: {console[-2000:]}")
    return Outcome(int(status.read_text()), (shared / f"{name}.out").read_text(errors="replace"))
