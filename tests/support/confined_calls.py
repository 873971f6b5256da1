"""A program that enters the sandbox of a worker, and then tries every system call. Prints one JSON object.

`python -m tests.support.confined_calls` prints `allowed` (calls that the filter allowed, by description), `tried` (number of calls of each
kind) and `status` (lines of /proc/self/status, afterwards). The filter refuses with an errno that no call returns by itself.
"""

import ctypes
import json
import mmap
import os
import platform
import socket

from collections.abc import Callable, Iterator
from pathlib import Path

import pyseccomp

from netpolq_worker.worker import sandbox
from netpolq_worker.worker.sandbox import Sandbox

REFUSAL = 3333
"""Above the errno of any call, and below 4,095, the largest error value."""

LAST_NUMBER = 700
"""Far above the last call of Linux 6.18, 470."""

UNFILTERED = frozenset({335, 336}) if platform.machine() == "x86_64" else frozenset()
"""uretprobe and uprobe, which seccomp does not filter: the kernel's own trampolines make them, and any other caller gets SIGILL.
Source: __seccomp_filter in kernel/seccomp.c, Linux 6.14 and newer."""

X32 = 0x40000000
_FILTERED = ("sendto", "fcntl", "mmap", "mprotect", "madvise", "futex")
_FAR = 1 << 32
"""A bit that the kernel ignores in an argument of 32 bits."""

# int call(int number): the number to eax, zero to all arguments, int 0x80, and the result as 64 bits.
_INT_80 = bytes.fromhex("53 89f8 31db 31c9 31d2 31f6 31ff cd80 4898 5b c3")

_libc = ctypes.CDLL(None, use_errno=True)


def _is_refused(number: int, *arguments: int) -> bool:
    ctypes.set_errno(0)
    values = [ctypes.c_long(value) for value in (*arguments, *(0,) * (6 - len(arguments)))]
    return int(_libc.syscall(ctypes.c_long(number), *values)) == -1 and ctypes.get_errno() == REFUSAL


def _dangerous_arguments(number: dict[str, int], own: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Calls that a worker may make, with arguments that the filter must refuse. `own`: a connected socket."""
    fcntl_allowed = {1030, 1034}
    for command in (*range(64), *range(1024, 1100)):
        if command not in fcntl_allowed:
            yield f"fcntl({command})", (number["fcntl"], own, command, os.getppid())
    for command in fcntl_allowed:
        yield f"fcntl({command}, far bit)", (number["fcntl"], own, command | _FAR)
    for protection in range(16):
        if protection & mmap.PROT_EXEC:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            nowhere = -1
            yield f"mmap({protection})", (number["mmap"], 0, 4096, protection, flags, nowhere)
            yield f"mmap({protection}, far bit)", (number["mmap"], 0, 4096, protection | _FAR, flags, nowhere)
            yield f"mprotect({protection})", (number["mprotect"], 0, 4096, protection)
    for advice in (*range(4), 5, 6, 7, *range(9, 14), *range(15, 30), 100, 101, 102, 103):
        yield f"madvise({advice})", (number["madvise"], 0, 0, advice)
    for command in (*range(2, 9), *range(11, 32)):
        yield f"futex({command})", (number["futex"], 0, command)
        yield f"futex({command}, private)", (number["futex"], 0, command | 128)
    address = ctypes.create_string_buffer(b"\x01\x00/run/systemd/notify")
    yield "sendto(address)", (number["sendto"], own, ctypes.addressof(address), 1, 0, ctypes.addressof(address), 22)


def _int_80() -> tuple[mmap.mmap, Callable[[int], int]] | None:
    """A function that makes a call by its i386 number, and its code; None if the kernel has no such calls."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_INT_80)
    call = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    child = os.fork()
    if child == 0:
        os._exit(0 if call(20) == os.getpid() else 1)  # 20: getpid
    _pid, status = os.waitpid(child, 0)
    return (code, call) if status == 0 else None


def main() -> None:
    names = (*sandbox._ALLOWED, *_FILTERED)  # the program tries the rest of the table
    number = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in names}
    known = {found for found in number.values() if found >= 0}  # below 0: this machine does not have the call
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    has_other_abis = platform.machine() == "x86_64"
    i386 = _int_80() if has_other_abis else None
    dangerous = list(_dangerous_arguments(number, own.fileno()))
    with Path("/proc/self/status").open("rb", buffering=0) as status:
        Sandbox(REFUSAL).apply()
        others = [one for one in range(LAST_NUMBER) if one not in known | UNFILTERED]
        allowed = [f"call {one}" for one in others if not _is_refused(one)]
        allowed += [what for what, (one, *arguments) in dangerous if not _is_refused(one, *arguments)]
        tried = {"calls": len(others), "arguments": len(dangerous), "x32": 0, "i386": 0}
        if has_other_abis:
            tried["x32"] = LAST_NUMBER
            allowed += [f"x32 call {one}" for one in range(LAST_NUMBER) if not _is_refused(X32 | one)]
        if i386 is not None:
            tried["i386"] = LAST_NUMBER
            allowed += [f"i386 call {one}" for one in range(LAST_NUMBER) if i386[1](one) != -REFUSAL]
        # A worker can still send and receive.
        own.send(b"x")
        assert other.recv(1) == b"x"
        table = dict(line.split(":\t", 1) for line in status.read().decode().splitlines())
    print(json.dumps({"allowed": allowed, "tried": tried, "status": table}))


if __name__ == "__main__":
    main()
