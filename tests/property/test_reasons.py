"""The packet log and the metrics give the verdict and the decisions that `netpolq explain` gives for the same packet, cached or not."""

import io
import json
import random

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet as ScapyPacket

from netpolq.addresses import format_address, is_ipv4
from netpolq.decision import Decision, Isolation, denies, tier_of
from netpolq.enums import Action, LoggingFormat, Reason, Tier, Verdict
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.ipc.channel import Logging
from netpolq.logs import PACKET_LOG_VERBOSITY
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker import packet_log
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.observer import Observer
from tests.support.clusters import Cluster, Flow, random_cluster, random_flows
from tests.support.compiled import Compilation
from tests.support.logging_output import logging_output
from tests.support.sizes import sized
from tests.support.worker_metrics import worker_metrics
from tests.unit.worker.test_packet_loop import QueuedPacket, ServingWorker

CLUSTERS = 25
FLOWS = 30
LOOKUPS = 3
"""Of each packet: the first is evaluated, the second fills the flow cache, and the third is answered from it."""


@pytest.fixture
def metrics(metrics_directory: Path) -> Iterator[WorkerMetrics]:
    with worker_metrics(metrics_directory) as metrics:
        yield metrics


@pytest.fixture
def metrics_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "metrics"
    directory.mkdir()
    return directory


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(packet_log, "BURST_LINES", 1 << 20)
    with logging_output(LoggingFormat.JSON, PACKET_LOG_VERBOSITY) as written:
        yield written


def packet_of(flow: Flow) -> ScapyPacket | None:
    """A packet of a flow; None for a protocol without ports."""
    layer = {6: TCP, 17: UDP}.get(flow.protocol)
    if layer is None:
        return None
    network = (IP if is_ipv4(flow.source) else IPv6)(src=format_address(flow.source), dst=format_address(flow.destination))
    return network / layer(sport=4000, dport=flow.port)


def logged(stream: io.StringIO) -> list[dict[str, object]]:
    """The lines since the last call."""
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    stream.seek(0)
    stream.truncate()
    return lines


def fields(decision: Decision | None) -> dict[str, object] | None:
    if decision is None:
        return None
    answer = {"deny_with": "reject"} if decision.is_rejected else {}
    if isinstance(decision, Isolation):
        return {"isolated_by": list(decision.policies), **answer}
    action = decision.action.name.lower()
    return {
        "tier": decision.tier.label,
        "policy": decision.policy,
        "rule": decision.position,
        "rule_name": decision.name or None,
        "action": action,
        **answer,
    }


def worker_with(metrics: WorkerMetrics, cluster: Cluster) -> ServingWorker:
    """A worker of a node on which all pods of a cluster run."""
    compilation = Compilation(cluster.store())
    compilation.update()
    serving = ServingWorker(metrics)
    serving.flow_cache.load(SnapshotReader(compilation.encoded()), None)
    observer = Observer(100, serving.flow_cache, Verdict.DROP, Logging(PACKET_LOG_VERBOSITY, False))
    serving.observe = observer.observe_if_needed
    return serving


@pytest.mark.parametrize("seed", range(sized(3)))
def test_log_and_metrics_have_the_decisions_that_explain_names(
    seed: int, metrics: WorkerMetrics, metrics_directory: Path, stream: io.StringIO
) -> None:
    rng = random.Random(seed)
    reasons = set()
    expected: Counter[tuple[str, str, str]] = Counter()
    misses = 0
    for _ in range(CLUSTERS):
        cluster = random_cluster(rng)
        serving = worker_with(metrics, cluster)
        store = cluster.store()
        for flow in random_flows(rng, cluster, FLOWS):
            packet = packet_of(flow)
            if packet is None:
                continue
            # A worker never sees what a pod sends to its own address directly.
            explanation = CompiledEvaluator(store).explain(*flow, via_service=True)
            assert explanation == ReferenceEvaluator(store).explain(*flow, via_service=True)
            if explanation.reason is Reason.OWN_NODE:
                continue  # the kernel accepts these packets and queues none
            for number in range(1, LOOKUPS + 1):
                serving.receive(QueuedPacket(number, bytes(packet)))
                serving.drained()
            lines = logged(stream)
            assert len(lines) == LOOKUPS
            # A denied direction ends the evaluation.
            egress = None if explanation.denial and not explanation.egress.denies else explanation.egress.decision
            ingress = None if explanation.egress.denies else explanation.ingress.decision
            for decision in (egress, ingress):
                if decision is None:
                    continue
                action = Action.DENY if denies(decision) else Action.ACCEPT
                expected[decision.direction.name.lower(), tier_of(decision).label, action.name.lower()] += LOOKUPS
            for line in lines:
                assert line["verdict"] == explanation.verdict.name.lower()
                assert line["reason"] == explanation.reason.label
                assert (line["egress"], line["ingress"]) == (fields(egress), fields(ingress))
                reasons.add(line["reason"])
        misses += serving.flow_cache.misses
        metrics.flush(misses)
    assert reasons == {reason.label for reason in Reason} - {Reason.OWN_NODE.label}
    assert {tier for _direction, tier, _action in expected} == {tier.label for tier in Tier}, (
        "clusters without some decision prove nothing about it"
    )
    assert decisions_counted(metrics_directory) == expected


def decisions_counted(directory: Path) -> Counter[tuple[str, str, str]]:
    """Direction, tier and action of the decisions that workers with this directory have counted."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))
    return Counter(
        {
            (sample.labels["direction"], sample.labels["tier"], sample.labels["action"]): round(sample.value)
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "netpolq_decisions_total"
        }
    )
