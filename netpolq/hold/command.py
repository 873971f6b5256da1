"""The command `netpolq hold`: installs, removes or prints the hold. It runs in milliseconds, without the rest of the agent."""

import os
import sys

from collections.abc import Mapping, Sequence

from netpolq.hold.ranges import ALLOWED, PodRange, listed, parse_ranges
from netpolq.hold.ruleset import DEFAULT_CT_LABEL, MAX_CT_LABEL, TABLE, render, render_release

# Values of netpolq.errors.ExitCode, which is not imported: `enum` alone takes longer than the rest of this command.
OK = 0
FAILED = 1
USAGE = 2
PRIVILEGES = 3
KERNEL = 5

_AGENT_TABLE = "netpolq"
_DEFAULT_CONF_DIR = "/etc/cni/net.d"
VALUES = ("pod-cidrs", "cni-conf-dir", "ct-label")
SWITCHES = ("print", "release", "force")
_ENVIRONMENT_PREFIX = "NETPOLQ_"
_CAP_NET_ADMIN = 12
"""Source: linux/capability.h."""

HELP = f"""\
usage: netpolq hold [flags]

Drop the traffic of this node's pods until an agent enforces policies: between boot and the first start of the agent.

The command installs the nftables table inet {TABLE}, which drops each packet from or to a pod range. The table accepts the node's own
traffic to its pods (probes) and the replies to it, connections that the agent accepted before, and neighbour discovery. `netpolq run`
removes the table as soon as its own rules are in force, also in fail-open mode. If the agent's own table is in place, the command changes
nothing.

Flags:
  --pod-cidrs CIDR[,CIDR...]  ranges of the node's pods, both families; may be repeated
                              (NETPOLQ_POD_CIDRS). Default: read from the CNI configuration
  --cni-conf-dir DIR          directory of the CNI configuration (NETPOLQ_CNI_CONF_DIR; default {_DEFAULT_CONF_DIR})
  --ct-label N                the agent's first bit of connection labels (NETPOLQ_CT_LABEL; default {DEFAULT_CT_LABEL})
  --print                     print the nft script and change nothing
  --force                     install the hold even if an agent's table is in place
  --release                   remove the hold

Examples:
  netpolq hold --pod-cidrs 10.244.1.0/24,fd00:10:244:1::/64
  netpolq hold --cni-conf-dir /host/etc/cni/net.d
  netpolq hold --pod-cidrs 10.244.0.0/16 --print > /etc/netpolq/hold.nft     # for deploy/systemd: nft -f needs no Python
  netpolq hold --release

Exit codes:
  0  the hold is in place, removed, or not needed
  1  no pod range is known, or nft refused the table
  2  a flag or environment variable is invalid
  3  privileges are missing: root, or CAP_NET_ADMIN
  5  the program nft is not installed
"""


class HoldError(Exception):
    """An expected failure with a message of one line for the operator."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command with the arguments after its name. Returns the exit code; expected errors are one line on standard error."""
    try:
        return _run(argv, environ)
    except HoldError as error:
        _print_error(f"error: {error}")
        return error.exit_code


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    if not {"-h", "-help", "--help"}.isdisjoint(argv):
        print(HELP, end="")
        return OK
    given, switches = _parse(argv)
    if "release" in switches:
        if given or len(switches) > 1:
            raise HoldError("--release cannot be combined with other flags", USAGE)
        _nft(render_release())
        print(f"the table inet {TABLE} is removed")
        return OK
    bit = _label_bit(given, environ)
    ranges = _ranges(given, environ)
    script = render(ranges, ct_label=bit)
    if "print" in switches:
        print(script, end="")
    elif "force" not in switches and _agent_enforces():
        print(f"the table inet {_AGENT_TABLE} of an agent is in place: there is nothing to hold")
    else:
        _nft(script)
        print(f"traffic of pods in {listed(ranges)} is dropped until an agent enforces (table inet {TABLE})")
    return OK


def _parse(argv: Sequence[str]) -> tuple[dict[str, list[str]], set[str]]:
    """Values by flag, and switches. `--flag VALUE`, `--flag=VALUE` and the same with one dash, like all other commands."""
    given: dict[str, list[str]] = {}
    switches: set[str] = set()
    remaining = list(reversed(argv))
    while remaining:
        argument = remaining.pop()
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if not argument.startswith("-") or name not in {*VALUES, *SWITCHES}:
            allowed = ", ".join(f"--{one}" for one in (*VALUES, *SWITCHES))
            raise HoldError(f"argument {argument!r} is not expected here; allowed: {allowed}", USAGE)
        if name in SWITCHES:
            if equals:
                raise HoldError(f"flag --{name}: takes no value", USAGE)
            switches.add(name)
            continue
        if not equals:
            if not remaining or remaining[-1].startswith("-"):
                raise HoldError(f"flag --{name}: needs a value", USAGE)
            value = remaining.pop()
        given.setdefault(name, []).append(value)
    return given, switches


def _look_up(name: str, given: Mapping[str, list[str]], environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The origin of a setting and its values: of the flag, else of the environment variable."""
    variable = _ENVIRONMENT_PREFIX + name.upper().replace("-", "_")
    if name in given:
        return f"flag --{name}", given[name]
    return f"environment variable {variable}", [environ[variable]] if environ.get(variable) else []


def _label_bit(given: Mapping[str, list[str]], environ: Mapping[str, str]) -> int:
    origin, values = _look_up("ct-label", given, environ)
    if not values:
        return DEFAULT_CT_LABEL
    try:
        bit = int(values[-1], 0)
    except ValueError:
        bit = -1
    if not 0 <= bit <= MAX_CT_LABEL:
        raise HoldError(f"{origin}: invalid value {values[-1]!r}; allowed: 0 to {MAX_CT_LABEL}", USAGE)
    return bit


def _ranges(given: Mapping[str, list[str]], environ: Mapping[str, str]) -> list[PodRange]:
    origin, values = _look_up("pod-cidrs", given, environ)
    ranges: list[PodRange] = []
    for value in values:
        try:
            ranges += parse_ranges(value)
        except ValueError:
            raise HoldError(f"{origin}: invalid value {value!r}; allowed: {ALLOWED}", USAGE) from None
    if ranges:
        return ranges
    from pathlib import Path  # noqa: PLC0415  # not needed if ranges are given

    from netpolq.hold import cni  # noqa: PLC0415  # see above

    _, directories = _look_up("cni-conf-dir", given, environ)
    found = cni.read(Path(directories[-1] if directories else _DEFAULT_CONF_DIR))
    if not found.ranges:
        raise HoldError(f"no pod range is known, so nothing is held: {'; '.join(found.problems)}; set --pod-cidrs", FAILED)
    for problem in found.problems:
        _print_error(f"warning: {problem}; not part of the hold")
    return found.ranges


def _agent_enforces() -> bool:
    """Whether the agent's table exists, with base chains and rules in them."""
    code, output, _complaint = _spawn(["nft", "--terse", "list", "table", "inet", _AGENT_TABLE], "")
    return code == 0 and "hook postrouting" in output and not {"jump", "goto"}.isdisjoint(output.split())


def _nft(script: str) -> None:
    """Apply a script as one transaction."""
    code, _output, complaint = _spawn(["nft", "-f", "-"], script)
    if code == 0:
        return
    if "Operation not permitted" in complaint or not _is_network_admin():
        raise HoldError(
            "changing the ruleset needs CAP_NET_ADMIN in this network namespace: run as root or add the capability", PRIVILEGES
        )
    raise HoldError(f"nft refused the table: {' '.join(complaint.split())[:500]}", FAILED)


def _is_network_admin() -> bool:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123  # pathlib takes longer than all of this command
        effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_NET_ADMIN & 1)


def _spawn(argv: list[str], text: str) -> tuple[int, str, str]:
    """Run a program to its end. Returns exit code, output and error output. The streams are files in memory, which cannot fill up."""
    streams = [os.memfd_create(name) for name in ("in", "out", "err")]
    try:
        os.write(streams[0], text.encode())
        os.lseek(streams[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams)]
        try:
            pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
        except FileNotFoundError:
            raise HoldError("the program nft is not installed: install the package nftables", KERNEL) from None
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output, complaint = (_content(stream) for stream in streams[1:])
    finally:
        for stream in streams:
            os.close(stream)
    return code, output, complaint


def _content(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def _print_error(text: str) -> None:
    sys.stderr.write(f"netpolq: {' '.join(text.splitlines())}\n")
