"""Checks of the kernel and of its settings that enforcement depends on."""

import os
import re

from pathlib import Path
from typing import NamedTuple

from netpolq.errors import KernelError

_FIRST_WITHOUT_BUG_1766 = (6, 12)
_OLDEST = (5, 10)
"""Linux 5.7 is the first version with the input interface of a forwarded packet in the postrouting hook, which tells forwarded packets
from the node's own; 5.10 is the oldest of these versions that is still maintained."""


def require_supported_kernel(release: str | None = None) -> None:
    """Raise `KernelError` for a kernel on which forwarded packets count as the node's own; not if the release is unreadable."""
    text = os.uname().release if release is None else release
    version = _version(text)
    if version is not None and version < _OLDEST:
        raise KernelError(f"Linux {text} is too old: netpolq needs {_OLDEST[0]}.{_OLDEST[1]} or newer")


def dns_in_prerouting(setting: bool | None, release: str | None = None) -> bool:
    """Whether DNS over UDP is evaluated before routing. With `setting` None the kernel's version decides.

    Before 6.12 the kernel drops one of two packets of a new UDP flow that are queued at the same time after routing (netfilter bug 1766):
    resolvers that ask for A and AAAA from one socket then wait for a timeout. A release that cannot be read counts as affected.
    """
    if setting is not None:
        return setting
    version = _version(os.uname().release if release is None else release)
    return version is None or version < _FIRST_WITHOUT_BUG_1766


def _version(release: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", release)
    return None if match is None else (int(match[1]), int(match[2]))


def unfiltered_bridges(sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Bridges with ports whose bridged traffic does not pass the IP hooks: policies are not enforced between their ports.

    A bridge is filtered when br_netfilter is loaded and `call_iptables` (and, where there is IPv6, `call_ip6tables`) is on, for the
    bridge or for all of them.
    """
    calls = ["iptables"] + (["ip6tables"] if (proc / "sys/net/ipv6").is_dir() else [])
    everywhere = [_is_on(proc / f"sys/net/bridge/bridge-nf-call-{call}") for call in calls]
    if all(everywhere):
        return ()
    loaded = (proc / "sys/net/bridge").is_dir()
    found = []
    for bridge in sorted((sys / "class/net").glob("*/bridge")):
        filtered = loaded and all(
            general or _is_on(bridge / f"nf_call_{call}") for call, general in zip(calls, everywhere, strict=True)
        )
        if not filtered and any((bridge.parent / "brif").glob("*")):
            found.append(bridge.parent.name)
    return tuple(found)


def are_vlans_filtered(proc: Path = Path("/proc")) -> bool:
    """Whether bridged packets with one VLAN tag pass the IP hooks as those without do."""
    return _is_on(proc / "sys/net/bridge/bridge-nf-filter-vlan-tagged")


class ConntrackUsage(NamedTuple):
    """Connection tracking of this network namespace. `entries` of at most `limit`; `dropped`: packets dropped for lack of room so far."""

    entries: int
    limit: int
    dropped: int


def conntrack_usage(proc: Path = Path("/proc")) -> ConntrackUsage | None:
    """Usage of the connection table, or None where the kernel does not report it.

    When the table is full, the kernel drops the first packet of every new connection before it is evaluated.
    Source: Documentation/networking/nf_conntrack-sysctl.rst; the columns of net/stat/nf_conntrack have names, and are hexadecimal.
    """
    try:
        entries, limit = (int((proc / f"sys/net/netfilter/nf_conntrack_{name}").read_text("ascii")) for name in ("count", "max"))
        header, *rows = [line.split() for line in (proc / "thread-self/net/stat/nf_conntrack").read_text("ascii").splitlines()]
        column = header.index("drop")
        return ConntrackUsage(entries, limit, sum(int(row[column], 16) for row in rows))
    except (OSError, ValueError, IndexError):
        return None


def _is_on(switch: Path) -> bool:
    try:
        return switch.read_text().strip() == "1"
    except OSError:
        return False
