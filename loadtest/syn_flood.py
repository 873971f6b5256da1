"""A flood of SYN packets from beyond the node to denied ports of the server, at a bounded rate."""

import json
import signal
import subprocess

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypedDict

from loadtest.clusters import PORT
from loadtest.pods import OUTSIDER, SERVER, PodLab
from loadtest.subjects import counter, run
from loadtest.traffic import GENERATOR_CPUS, Traffic

_CPU = GENERATOR_CPUS[:1]
_TRIAL_PACKETS = 30_000
_LIMIT_S = 20.0
_STOP_LIMIT_S = 10.0

# Packets of the flood that arrive are counted and not answered: without an agent the answers would keep the pod busy.
_SINK = f"""table inet sink {{
    counter arrived {{ }}
    chain incoming {{ type filter hook prerouting priority -300; tcp dport != {PORT} counter name arrived drop; }}
}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The target of a flood.

    `name`: part of the names of values; `destination_ports`: a port or a range. Each packet has a new source port.
    """

    name: str
    destination_ports: str
    order: str


ONE_TUPLE = Kind(name="one_tuple", destination_ports="9090", order="ports")
MANY_TUPLES = Kind(name="many_tuples", destination_ports="10000-65535", order="random")


class _Report(TypedDict):
    sent: int
    seconds: float
    rate_per_s: float
    cpu_s: float


class Flood:
    """A running flood. `report`: set at its end."""

    def __init__(self) -> None:
        self.report: _Report = {"sent": 0, "seconds": 0.0, "rate_per_s": 0.0, "cpu_s": 0.0}


def prepare(opened: PodLab) -> None:
    """Count the packets of the flood that arrive in the pod."""
    run(opened.box, SERVER, ["nft", "-f", "-"], stdin=_SINK)


def arrived(opened: PodLab) -> int:
    """Packets of all floods so far that reached the pod."""
    return counter(opened.box, SERVER, "sink", "arrived")


def max_per_s(opened: PodLab, kind: Kind) -> float:
    """The maximum rate of the generator here, with the work that the node does on its core. Measured in a short trial."""
    with _sending(opened, _traffic(kind, packets=_TRIAL_PACKETS, rate_per_s=0.0)) as process:
        output, _ = process.communicate(timeout=_LIMIT_S)
    return _read(opened, process, output)["rate_per_s"]


@contextmanager
def flooding(opened: PodLab, kind: Kind, *, rate_per_s: float, at_most_s: float) -> Iterator[Flood]:
    """Flood until the end of the context, or for a number of seconds. Raises `RuntimeError` if the generator fails or ends early."""
    flood = Flood()
    with _sending(opened, _traffic(kind, packets=int(rate_per_s * at_most_s), rate_per_s=rate_per_s)) as process:
        yield flood
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        elif not process.returncode:
            raise RuntimeError(f"the flood ended by itself within {at_most_s:g} s, before the load beside it")
        output, _ = process.communicate(timeout=_LIMIT_S)
        flood.report = _read(opened, process, output)


def _traffic(kind: Kind, *, packets: int, rate_per_s: float) -> Traffic:
    return Traffic(
        sources=(OUTSIDER.address(4),),
        packets=packets,
        destination_ports=kind.destination_ports,
        order=kind.order,
        protocol="tcp",
        rate_per_s=rate_per_s,
        cpus=_CPU,
    )


@contextmanager
def _sending(opened: PodLab, traffic: Traffic) -> Iterator[subprocess.Popen[str]]:
    box = opened.box
    to_mac = run(box, box.node.name, ["cat", "/sys/class/net/pod0/address"]).strip()
    argv = traffic.argv(0, 1, interface="eth0", to_mac=to_mac, destination=box.address(SERVER, 4))
    process = box.popen(OUTSIDER.name, argv, log=opened.log("flood"), pipe=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_LIMIT_S)


def _read(opened: PodLab, process: subprocess.Popen[str], output: str) -> _Report:
    if process.returncode:
        raise RuntimeError(f"the generator failed: {opened.log('flood').read_text(encoding='utf-8').strip()}")
    report: _Report = json.loads(output)
    return report
