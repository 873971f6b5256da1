"""iperf3 between a client and the server of a lab: established connections, in both protocols and families."""

import json
import shutil
import time

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from loadtest.clusters import CLIENTS
from loadtest.pods import SERVER, PodLab
from loadtest.subjects import run
from loadtest.traffic import ALL_CPUS

PORT = 5201
DATAGRAM_BYTES = 1400
_CLIENT = CLIENTS[0].name
_START_LIMIT_S = 10.0
_STEP_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The result of a transfer.

    `received_bits_per_s`: measured by the receiver; `retransmits`: of TCP; `lost_share`: of UDP datagrams; `cpu_s`: used by iperf3 itself,
    at both ends.
    """

    received_bits_per_s: float
    cpu_s: float
    retransmits: int = 0
    lost_share: float = 0.0


@contextmanager
def serving(opened: PodLab) -> Iterator[None]:
    """Run the iperf3 server, which serves one client at a time."""
    argv = ["iperf3", "--server", "--port", str(PORT), "--forceflush"]
    if shutil.which(argv[0]) is None:
        raise RuntimeError("iperf3 is missing; `make bench-setup` installs it")
    process = opened.box.popen(SERVER, argv, log=opened.log("iperf3"))
    try:
        deadline_s = time.monotonic() + _START_LIMIT_S
        while f":{PORT} " not in run(opened.box, SERVER, ["ss", "--no-header", "--listening", "--tcp", "--numeric"]):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"iperf3 does not serve: {opened.log('iperf3').read_text(encoding='utf-8').strip()}")
            time.sleep(_STEP_S)
        yield
    finally:
        process.terminate()
        process.wait()


def tcp(opened: PodLab, family: int, seconds: float) -> Transfer:
    """Transfer over one connection, as fast as possible."""
    end = _measure(opened, family, seconds, [])
    return Transfer(
        received_bits_per_s=_number(end, "sum_received", "bits_per_second"),
        cpu_s=_cpu_s(end),
        retransmits=int(_number(end, "sum_sent", "retransmits")),
    )


def udp(opened: PodLab, family: int, seconds: float, bits_per_s: float) -> Transfer:
    """Send datagrams at a fixed rate; 0: as many as possible."""
    flags = ["--udp", "--length", str(DATAGRAM_BYTES), "--bitrate", str(int(bits_per_s))]
    end = _measure(opened, family, seconds, flags)
    sent, received = _number(end, "sum_sent", "bytes"), _number(end, "sum_received", "bytes")
    if not sent:
        raise RuntimeError(f"iperf3 sent no datagram, IPv{family}")
    return Transfer(
        received_bits_per_s=_number(end, "sum_received", "bits_per_second"),
        cpu_s=_cpu_s(end),
        lost_share=max(0.0, 1 - received / sent),
    )


def _measure(opened: PodLab, family: int, seconds: float, flags: list[str]) -> Mapping[str, object]:
    to = opened.box.address(SERVER, family)
    argv = ["iperf3", "--client", to, "--port", str(PORT), "--time", str(max(1, round(seconds))), "--json", *flags]
    # The placement of the two ends by the scheduler would have a larger effect than anything else.
    argv += ["--affinity", f"{ALL_CPUS[0]},{ALL_CPUS[-1]}"]
    done = opened.box.run(_CLIENT, argv)
    document = json.loads(done.stdout) if done.stdout.strip() else {}
    if done.returncode or "error" in document:
        complaint = document.get("error") or done.stderr.strip() or f"exit code {done.returncode}"
        raise RuntimeError(f"{' '.join(argv)}: {complaint}")
    return cast("Mapping[str, object]", document["end"])


def _cpu_s(end: Mapping[str, object]) -> float:
    percent = sum(_number(end, "cpu_utilization_percent", name) for name in ("host_total", "remote_total"))
    return percent / 100 * _number(end, "sum_sent", "seconds")


def _number(end: Mapping[str, object], part: str, name: str) -> float:
    found = cast("Mapping[str, float]", end[part])
    return float(found[name])
