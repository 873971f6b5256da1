"""A real Prometheus scrapes a running agent with the shipped configuration, while packets arrive and workers are killed."""

import math
import socket
import threading

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import NamedTuple, cast

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from loadtest.testbed.manifests import Body
from loadtest.testbed.probe import Probe
from netpolq.sources.decode.annotations import DENY_WITH_ANNOTATION
from netpolq.supervisor.metrics.deprecated_names import FORMER_NAMES
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER, admit
from tests.support import prometheus
from tests.support.deployment import KUSTOMIZE, kustomized
from tests.support.dns_messages import answered, query
from tests.support.prometheus import Prometheus, StaticConfig
from tests.support.scraping import operator_job, pod_target

UNKNOWN = Host(name="app/unknown", addresses=("10.71.1.9", "fd71:1::9"))
"""An address in the pod range that no pod has."""

SELECTED = 'instance="this-host"'
CARRIED_OVER = {
    "packet_process_time": "histogram",
    "packet_process_duration_microseconds": "summary",
    "packet_count": "counter",
    "nfqueue_queue_total": "gauge",
    "nfqueue_queue_dropped": "gauge",
    "nfqueue_user_dropped": "gauge",
    "nfqueue_packet_id": "gauge",
}
META = "__meta_kubernetes_pod_"
POD: StaticConfig = {
    "targets": ["127.0.0.1:1"],  # another port of the pod
    "labels": {
        f"{META}label_app_kubernetes_io_name": "netpolq",
        f"{META}annotation_prometheus_io_scrape": "true",
        f"{META}annotation_prometheus_io_port": "9080",
        f"{META}node_name": "node-of-the-pod",
        f"{META}phase": "Running",
        "__meta_kubernetes_namespace": "kube-system",
    },
}


class Monitored(NamedTuple):
    """A running agent under traffic, and the server that scrapes it."""

    agent: Agent
    server: Prometheus


CLUSTER_ONLY = {"netpolq_events_total"}
"""Metrics of what an agent without an API server does not do."""


def pod_with(**labels: str) -> StaticConfig:
    """The pod with other labels."""
    return {**POD, "labels": {**POD["labels"], **{f"{META}{name}": value for name, value in labels.items()}}}


def policies() -> list[Body]:
    """Beside the server's policy: domain names for the friend, and denials with an answer."""
    friend = {"matchLabels": {"app": "friend"}}
    subject = {"pods": {"namespaceSelector": {}, "podSelector": friend}}
    names = [{"action": "Accept", "to": [{"domainNames": ["*.names.test"]}]}]
    closed = manifests.policy("app/friend", podSelector=friend, policyTypes=["Ingress"])
    metadata = {**cast("Body", closed["metadata"]), "annotations": {DENY_WITH_ANNOTATION: "reject"}}
    return [
        {**closed, "metadata": metadata},
        manifests.cluster_policy("names", tier="Admin", priority=10, subject=subject, egress=names),
    ]


@contextmanager
def steady_traffic(box: Box) -> Iterator[None]:
    """Connections of all kinds that are counted, each of them new, until the end.

    Datagrams from friend and stranger to the server, over both families, some of them with a cached answer; from the stranger to the
    friend, which are denied with an answer; from an unknown address, which wait. And the server answers the friend's look-ups of new names.
    """
    over = threading.Event()
    with ExitStack() as stack:

        def end_of(host: Host, kind: socket.AddressFamily = socket.AF_INET) -> socket.socket:
            return stack.enter_context(box.inside(host.name, partial(socket.socket, kind, socket.SOCK_DGRAM)))

        ends = [
            (end_of(client, kind), address)
            for client in (FRIEND, STRANGER)
            for kind, address in ((socket.AF_INET, SERVER.address(4)), (socket.AF_INET6, SERVER.address(6)))
        ]
        unknown, stranger, asking, dns = end_of(UNKNOWN), end_of(STRANGER), end_of(FRIEND), end_of(SERVER)
        dns.bind((SERVER.address(4), 53))
        dns.setblocking(False)

        def send_seldom(number: int) -> None:
            unknown.sendto(b"x", (SERVER.address(4), 1000 + number % 20000))
            stranger.sendto(b"x", (FRIEND.address(4), 1000 + number % 20000))
            asking.sendto(query(f"n{number}.names.test."), (SERVER.address(4), 53))
            with suppress(BlockingIOError):
                while True:
                    asked, client = dns.recvfrom(4096)
                    dns.sendto(answered(asked, f"198.51.{number >> 8 & 255}.{number & 255}"), client)

        def send() -> None:
            number = 0
            while not over.wait(0.01):
                number += 1
                for end, address in ends:
                    end.sendto(b"x", (address, 1000 + number % 20000))
                    end.sendto(b"x", (address, 80))
                if not number % 20:
                    send_seldom(number)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.fixture(scope="module")
def monitored() -> Iterator[Monitored]:
    """An agent that is started twice, the second time without a snapshot file, so that its metrics have packets without a decision."""
    jobs = prometheus.scrape_jobs()
    pods = (
        POD,
        pod_with(node_name="scraping-is-off", annotation_prometheus_io_scrape="false"),
        pod_with(node_name="another-program", label_app_kubernetes_io_name="other"),
        pod_with(node_name="has-ended", phase="Succeeded"),
    )
    jobs["netpolq-pods"] = prometheus.with_static_discovery(jobs["netpolq-pods"], *pods)
    pod = pod_target(kustomized(KUSTOMIZE / "base"), node="monitored-node", address="127.0.0.1")
    monitor = operator_job(kustomized(KUSTOMIZE / "podmonitor").one("PodMonitor"))
    jobs["pod-monitor"] = prometheus.with_static_discovery(monitor, pod)
    with Box(node=NODE, hosts=[SERVER, FRIEND, STRANGER, UNKNOWN]) as box:
        folder = box.directory / "manifests"
        folder.mkdir()
        bodies = [manifests.pod(host, NODE, app=host.name.split("/")[1]) for host in (SERVER, FRIEND, STRANGER)]
        manifests.write(folder / "cluster.json", [manifests.namespace("app"), *bodies, *policies()])
        admit(folder, "friend")
        flags = ("--workers=2", "--fail-open=false", "--strict-mode=false", "--verdict-cache-ttl=1")
        addresses = ("--pod-cidrs=10.71.1.0/24,fd71:1::/64", "--hold-timeout=1", f"--dns-servers={','.join(SERVER.addresses)}")
        with (
            Agent(box, folder, *flags, *addresses, f"--flow-export-file={box.directory / 'flows.jsonl'}") as agent,
            steady_traffic(box),
        ):
            agent.stop()
            (agent.run_dir / "snapshot.bin").unlink()
            agent.start()
            server = Prometheus(box, list(jobs.values()))
            server.wait_until("packets are counted", lambda: bool(server.value(f"sum(rate(packet_count{{{SELECTED}}}[10s]))")))
            box.probe([Probe(FRIEND.name, SERVER.address(4), "TCP", 80)])
            for app in ("stranger", "friend"):
                before = agent.status()
                admit(folder, app)
                agent.wait_until_enforced(before)
            yield Monitored(agent, server)


def names_in(server: Prometheus) -> set[str]:
    return set(cast("list[str]", server.get("/api/v1/label/__name__/values")))


def types_of(agent: Agent) -> dict[str, str]:
    """Metrics and their types as the agent declares them."""
    lines = [line.split() for line in agent.metrics().splitlines() if line.startswith("# TYPE ")]
    return {name: kind for _hash, _keyword, name, kind in lines}


def counters_of(agent: Agent) -> set[str]:
    """Names of the series that may only increase."""
    parts = {"counter": ("",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
    found = {f"{name}{part}" for name, kind in types_of(agent).items() for part in parts.get(kind, ())}
    return found | {"nfqueue_packet_id", "nfqueue_queue_dropped", "nfqueue_user_dropped"}


def test_every_metric_arrives_with_its_type(monitored: Monitored) -> None:
    metadata = cast("dict[str, list[dict[str, str]]]", monitored.server.get("/api/v1/metadata"))
    arrived = {name: {entry["type"] for entry in entries} for name, entries in metadata.items()}
    declared = types_of(monitored.agent)
    assert CARRIED_OVER.items() <= declared.items()
    assert len([name for name in declared if name.startswith("netpolq_")]) >= 18
    assert {name: arrived.get(name) for name in declared} == {name: {kind} for name, kind in declared.items()}
    assert all(name.endswith("_total") for name, kind in declared.items() if kind == "counter" and name != "packet_count")


@pytest.mark.parametrize(
    "series",
    [
        'packet_count{protocol="UDP",family="IPv4",verdict="accept"}',
        'packet_count{protocol="UDP",family="IPv6",verdict="drop"}',
        "packet_process_time_count",
        "packet_process_time_sum",
        "packet_process_duration_microseconds_count",
        "nfqueue_packet_id",
        "netpolq_flow_cache_hits_total",
        "netpolq_flow_cache_misses_total",
        'netpolq_decisions_total{direction="ingress",tier="network-policy",action="deny"}',
        'netpolq_connections_total{verdict="accept",answered_by="worker"}',
        'netpolq_connections_total{verdict="drop",answered_by="worker"}',
        'netpolq_connections_total{verdict="drop",answered_by="kernel"}',
    ],
)
def test_rates_are_above_zero_while_packets_arrive(monitored: Monitored, series: str) -> None:
    selector = series.replace("}", f",{SELECTED}}}") if "{" in series else f"{series}{{{SELECTED}}}"
    server = monitored.server
    server.wait_until(f"a rate of {series}", lambda: (server.value(f"sum(rate({selector}[10s]))") or 0.0) > 0.0)


def kill(monitored: Monitored, pid: int) -> None:
    """Kill a worker and wait until Prometheus has seen the counters of its replacement rise."""
    agent, server = monitored
    total = f"sum(packet_count{{{SELECTED}}})"
    counted = server.value(total) or 0.0
    assert counted > 0
    agent.kill(pid)
    agent.wait_until("the worker is replaced", lambda: pid not in {worker["pid"] for worker in agent.status()["workers"]})
    server.wait_until("counting goes on", lambda: (server.value(total) or 0.0) > counted)


def test_no_counter_decreases_when_workers_are_killed(monitored: Monitored) -> None:
    agent, server = monitored
    for worker in agent.status()["workers"]:
        kill(monitored, worker["pid"])
    restarts = f"sum(netpolq_worker_restarts_total{{{SELECTED}}})"
    server.wait_until("both restarts are counted", lambda: server.value(restarts) == 2)
    resets = {name: server.value(f"sum(resets({name}{{{SELECTED}}}[10m]))") for name in counters_of(agent)}
    assert {name: count for name, count in resets.items() if count != 0} == {}


def test_every_rule_is_evaluated_and_every_recording_rule_gives_a_value(monitored: Monitored) -> None:
    server = monitored.server

    def health() -> dict[str, str]:
        groups = cast("dict[str, list[dict[str, list[dict[str, str]]]]]", server.get("/api/v1/rules"))["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    wanted = {rule.get("record") or rule["alert"] for rule in prometheus.rules()}
    server.wait_until("all rules are evaluated", lambda: health() == dict.fromkeys(wanted, "ok"))
    for rule in prometheus.rules():
        if "record" in rule:
            question = f"{rule['record']}{{{SELECTED}}}"
            server.wait_until(f"a value of {question}", partial(has_values, server, question))


def has_values(server: Prometheus, question: str) -> bool:
    samples = server.query(question)
    return bool(samples) and not any(math.isnan(sample.value) for sample in samples)


def test_rules_and_dashboard_use_only_metrics_that_exist(monitored: Monitored) -> None:
    used = {name for rule in prometheus.rules() for name in prometheus.metric_names(rule["expr"])}
    used |= {name for _title, question in prometheus.panel_questions() for name in prometheus.metric_names(question)}
    assert len(used) > 20
    assert not used & {name for former in FORMER_NAMES.values() for name in (former, f"{former}_total")}, "these are deprecated"
    assert used - names_in(monitored.server) == CLUSTER_ONLY


def test_every_panel_of_the_dashboard_has_data(monitored: Monitored) -> None:
    server = monitored.server
    for title, question in prometheus.panel_questions(instance="this-host", interval="2m"):
        if CLUSTER_ONLY & prometheus.metric_names(question):
            continue
        server.wait_until(f"data for {title!r}: {question}", partial(has_values, server, question))


def test_a_pod_is_scraped_at_its_annotated_port_under_the_name_of_its_node(monitored: Monitored) -> None:
    """The discovery itself needs a cluster. The test provides its result, and the shipped configuration relabels it."""
    found = cast("dict[str, list[dict[str, object]]]", monitored.server.get("/api/v1/targets?state=active"))["activeTargets"]
    pods = [target for target in found if target["scrapePool"] == "netpolq-pods"]
    assert [target["scrapeUrl"] for target in pods] == ["http://127.0.0.1:9080/metrics"]
    assert pods[0]["labels"] == {"job": "netpolq", "instance": "node-of-the-pod", "namespace": "kube-system"}
    up = 'up{job="netpolq",instance="node-of-the-pod"}'
    monitored.server.wait_until("it is up", lambda: monitored.server.value(up) == 1)


def test_the_pod_monitor_scrapes_the_agent_under_the_job_of_the_rules_and_the_name_of_the_node(monitored: Monitored) -> None:
    """The test translates the shipped PodMonitor as the operator does. No alert reports the agent as down."""
    found = cast("dict[str, list[dict[str, object]]]", monitored.server.get("/api/v1/targets?state=active"))["activeTargets"]
    (target,) = [target for target in found if str(target["scrapePool"]).startswith("podMonitor/")]
    assert target["scrapeUrl"] == "http://127.0.0.1:9080/metrics"
    assert target["labels"] == {"job": "netpolq", "instance": "monitored-node", "namespace": "kube-system"}
    up = 'up{job="netpolq",instance="monitored-node"}'
    monitored.server.wait_until("it is up", lambda: monitored.server.value(up) == 1)
    firing = monitored.server.query('ALERTS{alertname=~"Netpolq(Absent|Down)"}')
    assert firing == []


def test_the_optional_job_has_the_names_of_the_kube_network_policies_agent_and_no_others(monitored: Monitored) -> None:
    parts = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
    expected = {f"kube_network_policies_{name}{part}" for name, kind in CARRIED_OVER.items() for part in parts.get(kind, ("",))}
    arrived = {sample.labels["__name__"] for sample in monitored.server.query('{job="kube-network-policies"}')}
    scraping = {name for name in arrived if name == "up" or name.startswith("scrape_")}
    assert arrived - scraping == expected
