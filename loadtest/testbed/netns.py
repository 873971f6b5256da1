"""Named network namespaces: created and removed in batches, and entered by threads.

A socket stays in the namespace in which it was created, whichever thread uses it. So one test process can use many namespaces at once.
"""

import ctypes
import os
import signal
import subprocess

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)

Answer = TypeVar("Answer")


def batch(lines: Iterable[str], namespace: str | None = None) -> None:
    """Run `ip` commands, without the word `ip`, in one process. Raises `RuntimeError` with the message of the first that fails."""
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"], input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip in {namespace or 'the initial namespace'}: {done.stderr.strip()}")


def inside(namespace: str, call: Callable[[], Answer]) -> Answer:
    """Call a function in a network namespace, in a new thread. Files below /proc/thread-self/net and /proc/sys/net follow it."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_enter_and_call, namespace, call).result()


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace, irrevocably."""
    descriptor = os.open(NAMED / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(descriptor)


def _enter_and_call(namespace: str, call: Callable[[], Answer]) -> Answer:
    enter(namespace)
    return call()


def existing(prefix: str) -> list[str]:
    """Names of the namespaces that begin with a prefix."""
    return sorted(path.name for path in NAMED.glob(f"{prefix}*")) if NAMED.is_dir() else []


def processes_in(namespaces: Iterable[str]) -> list[int]:
    """Processes whose main thread is in one of these namespaces."""
    wanted = set()
    for namespace in namespaces:
        with suppress(FileNotFoundError):
            status = (NAMED / namespace).stat()
            wanted.add((status.st_dev, status.st_ino))
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (process / "ns/net").stat()
            if (status.st_dev, status.st_ino) in wanted:
                found.append(int(process.name))
    return found


def remove(prefix: str) -> None:
    """Remove all namespaces that begin with a prefix, and the processes in them."""
    namespaces = existing(prefix)
    for process in processes_in(namespaces):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    if namespaces:
        batch(f"netns del {namespace}" for namespace in namespaces)
