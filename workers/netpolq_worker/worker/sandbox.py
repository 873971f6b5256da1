"""The confinement of a worker: one capability, another user where the pool may change it, and a filter of system calls.

A worker reads what anybody sends to a pod. A worker that is made to run foreign code is to give wrong verdicts and reach nothing else.
The filter allows the calls that the worker makes, with the arguments that it makes them with, and refuses all others with EPERM.
Refused, not punished: a worker that the kernel kills for a call would be a way to stop an agent.

The filter sees numbers, not what pointers lead to. So it cannot see which messages the worker writes to the netlink socket of its
queue: with CAP_NET_ADMIN, without which the kernel ignores verdicts, they may be requests to any part of netfilter in this network
namespace, nf_tables and conntrack too.

Sources: seccomp(2), prctl(2), credentials(7), user_namespaces(7), linux/fcntl.h, linux/mman.h, linux/futex.h.
"""

import errno
import logging
import os

from pathlib import Path
from typing import Protocol

from netpolq_worker import capabilities
from netpolq_worker.capabilities import CHANGE_USER, NET_ADMIN, prctl

WORKER_UID = 4_026_000_000
"""User and group of workers. No other program should run as it, because processes of one user may kill each other; so it is neither
`nobody` nor in a range from which users are given out: of people, of services, or of containers (systemd.io/UIDS-GIDS)."""

_ALLOWED = (
    # Packets and messages. The kernel remembers from Linux 5.11 on which numbers are allowed whatever their arguments.
    *("recvfrom", "poll", "ppoll", "recvmsg"),
    # Descriptors that the worker holds: snapshots, counters, the kernel's table of queues, standard error.
    *("read", "write", "close", "fstat", "lseek", "ftruncate", "munmap", "mremap"),
    # The worker itself.
    *("brk", "getpid", "gettid", "clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "getrandom", "sched_yield"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "exit", "exit_group"),
)

_F_DUPFD_CLOEXEC = 1030
_F_GET_SEALS = 1034
_FCNTL_COMMANDS = (_F_DUPFD_CLOEXEC, _F_GET_SEALS)
"""A mapping copies its descriptor, and a snapshot must be sealed. Among what is refused: F_SETOWN, F_SETSIG and F_SETFL with O_ASYNC,
by which one has the kernel send any signal to any process; leases, locks, F_NOTIFY, the size of pipes, and new seals."""

_PROT_EXEC = 4
_MADV_ADVICE = (4, 8, 14)  # MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE: what allocators give
_FUTEX_COMMANDS = (0, 1, 9, 10)  # FUTEX_WAIT, FUTEX_WAKE and both with a bit set: what locks of Python and glibc use
_FUTEX_CMD_MASK = 0x7F  # without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
_FIRST = 255  # the highest priority: tested before the others

log = logging.getLogger("confinement")


class _Filter(Protocol):
    def add_rule(self, action: int, syscall: str, *args: object) -> None:
        """One more system call."""
        ...

    def set_attr(self, attr: int, value: int) -> None:
        """Set a property of the filter."""
        ...

    def syscall_priority(self, syscall: str, priority: int) -> None:
        """Have a call tested before those of a lower priority."""
        ...

    def load(self) -> None:
        """Put it in force for the calling process and all that it may start."""
        ...


class Sandbox:
    """Made once in the pool, applied in every worker.

    `has_filter`: whether system calls are filtered. `changes_user`: whether workers run as `WORKER_UID`.
    `refusal`: the errno of a refused call; another than EPERM tells a refusal of the filter from one of the kernel.
    """

    def __init__(self, refusal: int = errno.EPERM) -> None:
        self._filter = _system_call_filter(refusal)
        if self._filter is None:
            log.warning("workers have no filter for system calls: libseccomp is not installed")
        self.changes_user = capabilities.held() >= CHANGE_USER and _is_mapped(WORKER_UID)

    @property
    def has_filter(self) -> bool:
        return self._filter is not None

    def apply(self) -> None:
        """Confine the calling process, for good. Raises `OSError`."""
        prctl(capabilities.PR_CAP_AMBIENT, capabilities.PR_CAP_AMBIENT_CLEAR_ALL)
        prctl(capabilities.PR_SET_NO_NEW_PRIVS, 1)
        if self.changes_user:
            _become(WORKER_UID)
        capabilities.keep({NET_ADMIN})
        # After the change of user, which sets it, too: no core files with what passed by, and no tracing by the same user.
        prctl(capabilities.PR_SET_DUMPABLE, 0)
        if self._filter is not None:
            self._filter.load()


def _become(uid: int) -> None:
    """Become another user and group, without supplementary groups; the permitted capabilities stay."""
    os.setgroups(())
    os.setresgid(uid, uid, uid)
    prctl(capabilities.PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    prctl(capabilities.PR_SET_KEEPCAPS, 0)


def _is_mapped(number: int) -> bool:
    """Whether the user namespace has a user and a group of this number."""

    def is_in(table: str) -> bool:
        rows = (map(int, line.split()) for line in Path(table).read_text("ascii").splitlines())
        return any(first <= number < first + count for first, _outside, count in rows)

    return is_in("/proc/self/uid_map") and is_in("/proc/self/gid_map")


def _system_call_filter(refusal: int) -> _Filter | None:
    try:
        import pyseccomp  # noqa: PLC0415  # raises when the library that it wraps is missing
    except (ImportError, OSError, RuntimeError):
        return None
    allow, argument = pyseccomp.ALLOW, pyseccomp.Arg
    found: _Filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(refusal))
    # Calls by the numbers of other ABIs (i386, x32); by default the process is killed for them.
    found.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(refusal))
    for name in _ALLOWED:
        found.add_rule(allow, name)
    # To whom a socket is connected, and to no other address: so there is no `sendmsg`, whose address the filter cannot see.
    found.add_rule(allow, "sendto", argument(4, pyseccomp.EQ, 0))
    found.syscall_priority("sendto", _FIRST)
    for command in _FCNTL_COMMANDS:
        found.add_rule(allow, "fcntl", argument(1, pyseccomp.EQ, command))
    for name in ("mmap", "mprotect"):
        found.add_rule(allow, name, argument(2, pyseccomp.MASKED_EQ, _PROT_EXEC, 0))
    for advice in _MADV_ADVICE:
        found.add_rule(allow, "madvise", argument(2, pyseccomp.EQ, advice))
    for command in _FUTEX_COMMANDS:
        found.add_rule(allow, "futex", argument(1, pyseccomp.MASKED_EQ, _FUTEX_CMD_MASK, command))
    return found
