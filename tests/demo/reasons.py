"""The policies that denied connections, according to `netpolq explain`."""

import json
import subprocess
import sys

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

from loadtest.testbed.box import CHECKOUT, Box
from loadtest.testbed.probe import Result
from tests.demo.expected import COLUMNS
from tests.demo.matrix import PROTOCOLS, family, short
from tests.demo.terminal import Style, Terminal


class _Answer(TypedDict):
    verdict: str
    direction: str | None
    tier: str | None
    policy: str | None


class _Decision(NamedTuple):
    """The key of a line in the list: a policy that denies in one direction of one pod. `policy`: with its tier if that is not the one of
    NetworkPolicies.
    """

    policy: str
    direction: str
    pod: str


def explain(box: Box, manifests: Path, results: Sequence[Result]) -> list[_Answer]:
    """Return the answers of `netpolq explain --packets`. Raises `RuntimeError` with its error message."""
    packets = "".join(
        json.dumps(
            {
                "src": box.address(result.probe.source, family(result)),
                "dst": result.probe.destination,
                "proto": "ICMPv6" if result.probe.protocol == "ICMP" and family(result) == 6 else result.probe.protocol,
                "sport": result.probe.source_port,
                "dport": result.probe.port,
            }
        )
        + "\n"
        for result in results
    )
    done = subprocess.run(
        [sys.executable, "-m", "netpolq", "explain", "--manifests", str(manifests), "--packets", "-"],
        input=packets,
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    if done.returncode:
        raise RuntimeError(f"netpolq explain: {done.stderr.strip() or done.stdout.strip()}")
    return [cast("_Answer", json.loads(line)) for line in done.stdout.splitlines()]


def show(terminal: Terminal, box: Box, results: Sequence[Result], answers: Sequence[_Answer]) -> list[str]:
    """Print the denials by deciding policy, a cluster-wide one with its tier. Returns the differences between `explain` and the network."""
    owner = {address: short(host.name) for host in box.hosts.values() for address in host.addresses}
    refused: dict[_Decision, dict[str, set[tuple[str, int]]]] = {}
    disagreements = []
    for result, answer in zip(results, answers, strict=True):
        source, destination = short(result.probe.source), owner[result.probe.destination]
        what = (result.probe.protocol, family(result))
        if (answer["verdict"] == "accept") is not result.reached:
            disagreements.append(f"{source} → {destination} {what[0]} IPv{what[1]}: explain says {answer['verdict']}")
        elif not result.reached:
            pod, peer = (source, destination) if answer["direction"] == "egress" else (destination, source)
            policy = str(answer["policy"]) if answer["tier"] == "network-policy" else f"{answer['tier']} {answer['policy']}"
            decision = _Decision(policy, str(answer["direction"]), pod)
            refused.setdefault(decision, {}).setdefault(peer, set()).add(what)
    for decision in sorted(refused, key=lambda decision: (decision.direction, COLUMNS.index(decision.pod))):
        peers = refused[decision]
        listed = ", ".join(f"{peer}{_part(peers[peer])}" for peer in COLUMNS if peer in peers)
        outgoing = decision.direction == "egress"
        subject = f"{decision.pod} → " if outgoing else f"→ {decision.pod} from "
        first, *rest = _wrapped(subject + listed, 60)
        terminal.line(f"  {terminal.styled(decision.policy.ljust(21), Style.BOLD)} {first}")
        for line in rest:
            terminal.line(f"  {'':21}     {line}")
    return disagreements


def _part(what: set[tuple[str, int]]) -> str:
    """Return the denied part of the traffic with a peer; empty if all of it is denied."""
    words = []
    for protocol in PROTOCOLS:
        families = {version for name, version in what if name == protocol}
        if families:
            words.append(protocol if len(families) == 2 else f"{protocol}v{families.pop()}")
    return "" if len(what) == 2 * len(PROTOCOLS) else f" ({' '.join(words)})"


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(", "):
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines[-1] += ","
            lines.append("")
        lines[-1] += f", {word}" if lines[-1] else word
    return lines
