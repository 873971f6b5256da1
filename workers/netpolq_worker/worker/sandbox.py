"""The sandbox of a worker: one capability, another user if the pool may change it, and a filter of system calls.

A worker reads packets that any host may send to a pod. If an attacker makes it run foreign code, the code can give wrong verdicts and
reach nothing else. The filter allows the calls that the worker makes, with their arguments, and refuses all others with EPERM. The kernel
does not kill the worker for such a call, because that would be a way to stop an agent.

The filter sees numbers, not the memory that pointers refer to. So it cannot see which messages the worker writes to the netlink socket of
its queue: with CAP_NET_ADMIN, without which the kernel ignores verdicts, they may be requests to any part of netfilter in this network
namespace, nf_tables and conntrack too.

Sources: seccomp(2), prctl(2), credentials(7), user_namespaces(7), linux/fcntl.h, linux/mman.h, linux/futex.h.
"""

import errno
import logging
import os
import resource

from pathlib import Path
from typing import Protocol

from netpolq_worker import capabilities
from netpolq_worker.capabilities import CHANGE_USER, NET_ADMIN, prctl
from netpolq_worker.worker.answer_sockets import AnswerSockets

WORKER_UID = 4_026_000_000
"""User and group of workers. No other program should run as this user, because processes of one user may kill each other. So it is
neither `nobody` nor in a range that systems assign to people, services or containers (systemd.io/UIDS-GIDS)."""

_ALLOWED = (
    # Packets and messages. From Linux 5.11 on, the kernel caches which numbers are allowed with any arguments.
    *("recvfrom", "poll", "ppoll", "recvmsg"),
    # Descriptors that the worker holds: snapshots, metrics memory, the kernel's table of queues, standard error.
    *("read", "write", "close", "fstat", "lseek", "ftruncate", "munmap", "mremap"),
    # The worker itself.
    *("brk", "getpid", "gettid", "clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "getrandom", "sched_yield"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "exit", "exit_group"),
)

_F_DUPFD_CLOEXEC = 1030
_F_GET_SEALS = 1034
_FCNTL_COMMANDS = (_F_DUPFD_CLOEXEC, _F_GET_SEALS)
"""For the copy of the descriptor that a mapping makes, and the check that a snapshot is sealed. Refused are, among others: F_SETOWN,
F_SETSIG and F_SETFL with O_ASYNC, which make the kernel send any signal to any process; leases, locks, F_NOTIFY, the size of pipes, and
new seals."""

_PROT_EXEC = 4
_MADV_ADVICE = (4, 8, 14)  # MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE: used by allocators
_FUTEX_COMMANDS = (0, 1, 9, 10)  # FUTEX_WAIT, FUTEX_WAKE and both with a bit set: used by locks of Python and glibc
_FUTEX_CMD_MASK = 0x7F  # without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
_FIRST = 255  # the highest priority: tested before the others

log = logging.getLogger("confinement")


class _Filter(Protocol):
    def add_rule(self, action: int, syscall: str, *args: object) -> None:
        """Add a rule for a system call."""
        ...

    def set_attr(self, attr: int, value: int) -> None:
        """Set a property of the filter."""
        ...

    def syscall_priority(self, syscall: str, priority: int) -> None:
        """Test a call before those of a lower priority."""
        ...

    def load(self) -> None:
        """Apply the filter to the calling process and the processes that it starts."""
        ...


class Sandbox:
    """The restrictions of a worker process. The pool creates one, and every worker applies it.

    `has_filter`: whether system calls are filtered. `changes_user`: whether workers run as `WORKER_UID`.
    `refusal`: the errno of a refused call. A value other than EPERM distinguishes a refusal of the filter from one of the kernel.
    """

    def __init__(self, refusal: int = errno.EPERM, *, answer_sockets: AnswerSockets | None = None) -> None:
        """`answer_sockets`: on which a worker may send to any address."""
        self._answer_sockets = answer_sockets
        self._filter = _system_call_filter(refusal, () if answer_sockets is None else answer_sockets.descriptors())
        if self._filter is None:
            log.warning("workers run without a system call filter: libseccomp is not installed")
        self.changes_user = capabilities.held() >= CHANGE_USER and _is_mapped(WORKER_UID)

    @property
    def has_filter(self) -> bool:
        return self._filter is not None

    def apply(self) -> None:
        """Restrict the calling process, irrevocably. Raises `OSError`."""
        if self._answer_sockets is not None:
            # No descriptor of another kind gets the number of one of these, by which the filter knows them.
            limit = self._answer_sockets.descriptor_limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        prctl(capabilities.PR_CAP_AMBIENT, capabilities.PR_CAP_AMBIENT_CLEAR_ALL)
        prctl(capabilities.PR_SET_NO_NEW_PRIVS, 1)
        if self.changes_user:
            _become(WORKER_UID)
        capabilities.keep({NET_ADMIN})
        # After the change of user, which sets it too: no core files with packet data, and no tracing by the same user.
        prctl(capabilities.PR_SET_DUMPABLE, 0)
        if self._filter is not None:
            self._filter.load()


def _become(uid: int) -> None:
    """Change user and group, and drop supplementary groups. The permitted capabilities stay."""
    os.setgroups(())
    os.setresgid(uid, uid, uid)
    prctl(capabilities.PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    prctl(capabilities.PR_SET_KEEPCAPS, 0)


def _is_mapped(number: int) -> bool:
    """Whether the user namespace maps this number as a user and as a group."""

    def is_in(table: str) -> bool:
        rows = (map(int, line.split()) for line in Path(table).read_text("ascii").splitlines())
        return any(first <= number < first + count for first, _outside, count in rows)

    return is_in("/proc/self/uid_map") and is_in("/proc/self/gid_map")


def _system_call_filter(refusal: int, answer_descriptors: tuple[int, ...]) -> _Filter | None:
    try:
        import pyseccomp  # noqa: PLC0415  # raises when the library that it wraps is missing
    except (ImportError, OSError, RuntimeError):
        return None
    allow, argument = pyseccomp.ALLOW, pyseccomp.Arg
    found: _Filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(refusal))
    # Calls with the numbers of other ABIs (i386, x32). By default, the kernel kills the process for them.
    found.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(refusal))
    for name in _ALLOWED:
        found.add_rule(allow, name)
    # Only without an address, so only to the connected peer. `sendmsg` is refused: the filter cannot see its address.
    found.add_rule(allow, "sendto", argument(4, pyseccomp.EQ, 0))
    for descriptor in answer_descriptors:
        found.add_rule(allow, "sendto", argument(0, pyseccomp.EQ, descriptor))
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
