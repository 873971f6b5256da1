"""The shipped ways of scraping the agents, and the labels that Prometheus gives the targets that each way finds."""

import json
import re
import subprocess

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from tests.support import prometheus
from tests.support.deployment import KUSTOMIZE, Deployment, Manifest, charted, kustomized
from tests.support.prometheus import Job, StaticConfig

META = "__meta_kubernetes_pod_"


def pod_target(
    deployment: Deployment, *, node: str, address: str = "10.0.0.1", container: str = "agent", init: bool = False
) -> StaticConfig:
    """The target that the Kubernetes discovery makes of one container of an agent's pod.

    Source: prometheus discovery/kubernetes/pod.go: one target for each container without a port, init containers among them.
    """
    metadata, namespace = deployment.pod["metadata"], deployment.one("DaemonSet")["metadata"]["namespace"]
    labels = {f"{META}label_{_sanitized(name)}": value for name, value in metadata["labels"].items()}
    annotations = {f"{META}annotation_{_sanitized(name)}": value for name, value in metadata.get("annotations", {}).items()}
    return {
        "targets": [f"[{address}]" if ":" in address else address],
        "labels": {
            **labels,
            **annotations,
            "__meta_kubernetes_namespace": namespace,
            f"{META}name": f"{deployment.one('DaemonSet')['metadata']['name']}-x7k2p",
            f"{META}node_name": node,
            f"{META}ip": address,
            f"{META}phase": "Running",
            f"{META}container_name": container,
            f"{META}container_init": str(init).lower(),
        },
    }


def operator_job(monitor: Manifest) -> Job:
    """The scrape job that the Prometheus operator makes of a PodMonitor with one endpoint without a port.

    Source: prometheus-operator pkg/prometheus/promcfg.go, generatePodMonitorConfig. Discovery is left out.
    """
    metadata, spec = monitor["metadata"], monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    selected = [
        {"source_labels": [f"{META}label_{_sanitized(name)}"], "regex": re.escape(value), "action": "keep"}
        for name, value in spec["selector"]["matchLabels"].items()
    ]
    name = f"{metadata['namespace']}/{metadata['name']}"
    return {
        "job_name": f"podMonitor/{name}/0",
        "metrics_path": str(endpoint["path"]),
        "relabel_configs": [
            {"source_labels": ["job"], "target_label": "__tmp_prometheus_job_name"},
            {"source_labels": [f"{META}phase"], "regex": "(Failed|Succeeded)", "action": "drop"},
            *selected,
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": [f"{META}container_name"], "target_label": "container"},
            {"source_labels": [f"{META}name"], "target_label": "pod"},
            {"target_label": "job", "replacement": name},
            *({_snake(key): value for key, value in rule.items()} for rule in endpoint["relabelings"]),
        ],
    }


def _sanitized(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def found(directory: Path, job: Job, *targets: StaticConfig) -> list[dict[str, str]]:
    """Labels of the scraped targets, without duplicates, from promtool. `targets`: replaces the discovery of the job."""
    if targets:
        job = prometheus.with_static_discovery(job, *targets)
    path = prometheus.config_file(directory, [job])
    argv = [prometheus.require("promtool"), "check", "service-discovery", "--timeout=1s", str(path), job["job_name"]]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=prometheus.LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    scraped = [entry["labels"] for entry in json.loads(done.stdout) if entry.get("labels")]
    # Prometheus scrapes targets of a job with equal labels and addresses once.
    return [dict(labels) for labels in dict.fromkeys(tuple(sorted(labels.items())) for labels in scraped)]


def series_labels(directory: Path, job: Job, *targets: StaticConfig) -> list[dict[str, str]]:
    """Labels that every series of each target gets."""
    return [
        {name: value for name, value in labels.items() if not name.startswith("__")} for labels in found(directory, job, *targets)
    ]


def _on_hosts(directory: Path, *nodes: str) -> list[dict[str, str]]:
    """More than one host: their names as targets, without the fixed name, as the job's comment describes."""
    job = cast("Job", {**prometheus.scrape_jobs()["netpolq"], "relabel_configs": []})
    return series_labels(directory, job, *(StaticConfig(targets=[f"{node}:9080"], labels={}) for node in nodes))


def _as_pods(directory: Path, *nodes: str) -> list[dict[str, str]]:
    return series_labels(directory, prometheus.scrape_jobs()["netpolq-pods"], *_pods(kustomized(KUSTOMIZE / "base"), nodes))


def _by_pod_monitor(directory: Path, *nodes: str) -> list[dict[str, str]]:
    job = operator_job(kustomized(KUSTOMIZE / "podmonitor").one("PodMonitor"))
    return series_labels(directory, job, *_pods(kustomized(KUSTOMIZE / "base"), nodes))


def _by_the_charts_pod_monitor(directory: Path, *nodes: str) -> list[dict[str, str]]:
    chart = charted({"metrics": {"podMonitor": {"enabled": True}}}, release="edge", namespace="network")
    return series_labels(directory, operator_job(chart.one("PodMonitor")), *_pods(chart, nodes))


def _pods(deployment: Deployment, nodes: Iterable[str]) -> Iterator[StaticConfig]:
    return (pod_target(deployment, node=node, address=f"10.0.0.{end}") for end, node in enumerate(nodes, 1))


WAYS: Mapping[str, Callable[..., list[dict[str, str]]]] = {
    "static targets": _on_hosts,
    "discovered pods": _as_pods,
    "PodMonitor of kustomize": _by_pod_monitor,
    "PodMonitor of the chart": _by_the_charts_pod_monitor,
}
"""Labels of the series of the agents on some nodes, in any order, by way of scraping."""
