"""Established connections of an isolated pod: what the agent costs them, which should be nothing."""

import json
import subprocess

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from loadtest.clusters import NAMESPACE, NODE, SERVER
from loadtest.lab import RECEIVER, SENDER, Lab, lab
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.processes import FamilyWatch
from loadtest.subjects import Netpolq, Nothing, Subject, run
from loadtest.traffic import ALL_CPUS
from loadtest.verdict import OTHERS_SHARE
from tests.support import manifests
from tests.support.box import Host
from tests.support.manifests import Body

_CLIENT = Host(name=f"{NAMESPACE}/client", addresses=("10.64.0.1", "fd00:64::1"))
_PORT = 5201
_UDP_BITS_PER_S = 100_000_000
"""What hardly anything is lost of here without an agent: beyond it the receiver's socket is compared, and not the way to it."""

_TCP_WINDOW = "256K"
"""Of the socket buffers: no more is on its way than the backlog of a veth takes. Without a bound packets are lost there, and how many is
chance."""

_UDP_BYTES = 1200
_DURATION_S = 2
_QUICK_DURATION_S = 1
_START_S = 1
"""Of each transfer, not counted: until TCP has found its rate."""

_KINDS = tuple((protocol, family) for protocol in ("tcp", "udp") for family in (4, 6))


class Established:
    """iperf3 from a pod that is admitted, by name, to an isolated one. The agent judges the first packet and never sees another."""

    name = "established"
    title = "iperf3 through an isolated pod: TCP and UDP, both families"

    def __init__(self, parameters: Parameters) -> None:
        self._duration_s = _QUICK_DURATION_S if parameters.quick else _DURATION_S
        self._start_s = 0 if parameters.quick else _START_S

    def variants(self) -> Sequence[Variant]:
        subjects: dict[str, Subject] = {"no agent": Nothing(), "netpolq": Netpolq()}
        return [
            IperfVariant(name=name, subject=subject, duration_s=self._duration_s, start_s=self._start_s)
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [
            Target(value=_value(protocol, family), subject="netpolq", reference="no agent", at_least=0.97)
            for protocol, family in _KINDS
        ]


def _value(protocol: str, family: int) -> str:
    return f"{protocol}_ipv{family}_mbit_per_s"


def _bodies() -> Iterable[Body]:
    yield manifests.namespace(NAMESPACE)
    yield manifests.pod(SERVER, NODE, app="server")
    yield manifests.pod(_CLIENT, Host(name="elsewhere", addresses=("10.200.3.1",)), app="client")
    peer = {"podSelector": {"matchLabels": {"app": "client"}}}
    yield manifests.policy(
        f"{NAMESPACE}/server", podSelector={"matchLabels": {"app": "server"}}, policyTypes=["Ingress"], ingress=[{"from": [peer]}]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IperfVariant:
    """One of the two."""

    name: str
    subject: Subject
    duration_s: int
    start_s: int

    def open(self) -> AbstractContextManager["IperfRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["IperfRun"]:
        with lab(_bodies(), self.subject, clients=_CLIENT.addresses, sink=False) as opened:
            log = opened.box.directory / "iperf3.log"
            server = opened.box.popen(RECEIVER, ["iperf3", "--server", "--port", str(_PORT)], log=log)
            try:
                yield IperfRun(self, opened)
            finally:
                server.terminate()
                server.wait()


class IperfRun:
    """An open variant."""

    def __init__(self, variant: IperfVariant, opened: Lab) -> None:
        self._variant = variant
        self._lab = opened

    def measure(self, round_number: int) -> Sample:
        """Each protocol and family in turn."""
        del round_number
        values: dict[str, float] = {}
        watch = FamilyWatch(self._lab.started.workers)
        for protocol, family in _KINDS:
            report = self._iperf(protocol, family)
            if protocol == "tcp":
                values[_value(protocol, family)] = report["end"]["sum_received"]["bits_per_second"] / 1e6
                values[f"tcp_ipv{family}_retransmits"] = float(report["end"]["sum_sent"]["retransmits"])
            else:
                total = report["end"]["sum"]
                lost = total["lost_packets"] / total["packets"]
                values[_value(protocol, family)] = total["bits_per_second"] / 1e6 * (1 - lost)
                values[f"udp_ipv{family}_lost_share"] = lost
        return Sample(values={**values, OTHERS_SHARE: watch.others_share()})

    def _iperf(self, protocol: str, family: int) -> dict[str, dict[str, dict[str, float]]]:
        box = self._lab.box
        words = ["iperf3", "--client", box.address(RECEIVER, family), "--port", str(_PORT), "--json"]
        words += [
            "--bind",
            _CLIENT.address(family),
            "--time",
            str(self._variant.duration_s),
            "--omit",
            str(self._variant.start_s),
        ]
        # Client and server where they are in every round: what the scheduler makes of it differs more than what is compared.
        words += ["--affinity", f"{ALL_CPUS[0]},{ALL_CPUS[-1]}"]
        if protocol == "udp":
            words += ["--udp", "--bitrate", str(_UDP_BITS_PER_S), "--length", str(_UDP_BYTES)]
        else:
            words += ["--window", _TCP_WINDOW]
        try:
            output = run(box, SENDER, words)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{' '.join(words)}: no end after {error.timeout:.0f} s") from error
        report: dict[str, dict[str, dict[str, float]]] = json.loads(output)
        if "error" in report:
            raise RuntimeError(f"{' '.join(words)}: {report['error']}")
        return report
