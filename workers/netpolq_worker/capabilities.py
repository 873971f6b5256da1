"""Capabilities of processes: the sets that pool and supervisor keep, and the system calls that drop the others.

A pool that root starts on a machine has every capability. Once the queues are bound and the run directory is prepared, it drops those
that it does not need, from its bounding set too, so that no program it starts gets them back.

Sources: capabilities(7), capget(2), prctl(2), linux/capability.h.
"""

import ctypes
import os
import struct

from collections.abc import Iterable
from pathlib import Path

DAC_READ_SEARCH = 2
KILL = 5
SETGID = 6
SETUID = 7
SETPCAP = 8
NET_BIND_SERVICE = 10
NET_ADMIN = 12

CHANGE_USER = frozenset({SETUID, SETGID, KILL})
"""Needed for workers of another user: to start them, and to kill one that hangs."""

POOL = CHANGE_USER | {NET_ADMIN}

SUPERVISOR = frozenset({NET_ADMIN, NET_BIND_SERVICE, DAC_READ_SEARCH})
"""The ruleset; a metrics port below 1024; manifests and kubeconfig files of other users."""

PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_KEEPCAPS = 8
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_HEADER = struct.pack("=II", _VERSION, 0)
_SETS = struct.Struct("=6I")  # effective, permitted and inheritable, of the lower and then of the upper 32
_MAX_CAPABILITY = 63
_LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int) -> int:
    """Call the system call with one argument. Returns its result. Raises `OSError`."""
    result = int(_LIBC.prctl(option, argument, 0, 0, 0))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
    return result


def held() -> frozenset[int]:
    """The permitted set of the calling process. Raises `OSError`."""
    return _members(_get()[1])


def keep(capabilities: Iterable[int], *, inheritable: Iterable[int] = ()) -> None:
    """Drop every other capability from all sets but the bounding set. Raises `OSError`.

    The capabilities that stay in the permitted set become effective too. An ambient capability stays only if it is kept and inheritable.
    """
    _effective, permitted, inherited = _get()
    kept = permitted & _bits(capabilities)
    inherited &= _bits(inheritable)
    low = (1 << 32) - 1
    data = _SETS.pack(kept & low, kept & low, inherited & low, kept >> 32, kept >> 32, inherited >> 32)
    if _LIBC.capset(_HEADER, data):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


def limit_bounding_set(capabilities: Iterable[int]) -> None:
    """Drop every other capability from the bounding set. Does nothing without CAP_SETPCAP. Raises `OSError`."""
    if SETPCAP not in held():
        return
    kept = frozenset(capabilities)
    for capability in range(_MAX_CAPABILITY + 1):
        if capability not in kept and _is_in_bounding_set(capability):
            prctl(PR_CAPBSET_DROP, capability)


def drop_unneeded() -> None:
    """Keep only what pool and supervisor need from now on. Raises `OSError`."""
    limit_bounding_set(SUPERVISOR)
    keep(POOL | (_ambient() & SUPERVISOR), inheritable=SUPERVISOR)


def _ambient() -> frozenset[int]:
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return _members(next((int(line.split()[1], 16) for line in status if line.startswith("CapAmb:")), 0))


def _is_in_bounding_set(capability: int) -> bool:
    try:
        return bool(prctl(PR_CAPBSET_READ, capability))
    except OSError:  # this kernel has no capability of this number
        return False


def _get() -> tuple[int, int, int]:
    data = ctypes.create_string_buffer(_SETS.size)
    if _LIBC.capget(_HEADER, data):
        raise OSError(ctypes.get_errno(), f"capget: {os.strerror(ctypes.get_errno())}")
    u32s = _SETS.unpack(data.raw)
    effective, permitted, inheritable = (u32s[index] | u32s[index + 3] << 32 for index in range(3))
    return effective, permitted, inheritable


def _bits(capabilities: Iterable[int]) -> int:
    return sum(1 << capability for capability in frozenset(capabilities))


def _members(bits: int) -> frozenset[int]:
    return frozenset(capability for capability in range(_MAX_CAPABILITY + 1) if bits >> capability & 1)
