"""What a worker may do once it serves: use what it holds, and nothing else.

It reads what anybody sends to a pod. Should that ever make it do what it is told, it can give wrong verdicts, and no more than that: of
the capabilities it keeps the one that verdicts need (without CAP_NET_ADMIN the kernel ignores them), it gains none by executing
something, and the system calls by which one opens, connects, starts or reaches anything are refused with EPERM. Refused, not punished:
a worker that was killed for a call would be a way to stop an agent.

Sources: capabilities(7), capset(2), linux/capability.h, seccomp(2), prctl(2).
"""

import ctypes
import errno
import logging
import os
import struct

from typing import Protocol

_CAP_NET_ADMIN = 12
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_DUMPABLE = 4
_AT_EMPTY_PATH = 0x1000

_ALLOWED = (
    # Packets, verdicts and messages; each of them is always allowed, which the kernel remembers by number from Linux 5.11 on.
    *("recvfrom", "sendto", "poll", "recvmsg", "sendmsg", "ppoll", "getsockopt"),
    # Descriptors that it holds: snapshots, counters, the kernel's table of queues, standard error.
    *(
        "read",
        "write",
        "close",
        "fstat",
        "lseek",
        "ftruncate",
        "fcntl",
        "ioctl",
        "mmap",
        "munmap",
        "mremap",
        "mprotect",
        "madvise",
    ),
    # Itself.
    *(
        "brk",
        "futex",
        "getpid",
        "gettid",
        "clock_gettime",
        "clock_nanosleep",
        "nanosleep",
        "gettimeofday",
        "getrandom",
        "sched_yield",
    ),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "exit", "exit_group"),
)

log = logging.getLogger("confinement")
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Filter(Protocol):
    def add_rule(self, action: int, syscall: str, *args: object) -> None:
        """One more system call."""
        ...

    def load(self) -> None:
        """Put it in force for the calling process and all that it may start."""
        ...


class Confinement:
    """Made once in the pool, applied in every worker. `has_filter`: whether system calls are filtered too."""

    def __init__(self) -> None:
        self._filter = _system_call_filter()
        if self._filter is None:
            log.warning("workers have no filter for system calls: libseccomp is not installed")

    @property
    def has_filter(self) -> bool:
        return self._filter is not None

    def apply(self) -> None:
        """Confine the calling process, for good. Raises `OSError`."""
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_DUMPABLE, 0)  # no core files with what passed by, and nobody else of the same user may trace it
        _keep_only(_CAP_NET_ADMIN)
        if self._filter is not None:
            self._filter.load()


def _system_call_filter() -> _Filter | None:
    try:
        import pyseccomp  # noqa: PLC0415  # raises when the library that it wraps is missing
    except (ImportError, OSError, RuntimeError):
        return None
    found: _Filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in _ALLOWED:
        found.add_rule(pyseccomp.ALLOW, name)
    # How newer C libraries ask about a descriptor; without the flag it would be about a path.
    found.add_rule(pyseccomp.ALLOW, "newfstatat", pyseccomp.Arg(3, pyseccomp.EQ, _AT_EMPTY_PATH))
    return found


def _keep_only(capability: int) -> None:
    kept = 1 << capability
    header = struct.pack("=II", _CAPABILITY_VERSION, 0)
    data = struct.pack("=6I", kept, kept, 0, 0, 0, 0)  # effective, permitted and inheritable, of the lower and the upper 32
    if _LIBC.capset(header, data):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, argument: int) -> None:
    if _LIBC.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
