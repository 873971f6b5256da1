"""Which pods are asked."""

from collections.abc import Mapping
from typing import Any

from netpolq.flow_view.agents import chosen


def pod(name: str, node: str | None, created: str = "1", phase: str = "Running", deleted: str = "") -> Mapping[str, Any]:
    metadata = {"namespace": "kube-system", "name": name, "creationTimestamp": created, "deletionTimestamp": deleted or None}
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase}}


def asked(*pods: Mapping[str, Any]) -> list[str]:
    return [f"{agent.node} {agent.pod} {agent.problem}".strip() for agent in chosen(pods)]


def test_one_pod_of_each_node_is_asked() -> None:
    assert asked(pod("b", "node-2"), pod("a", "node-1")) == ["node-1 a", "node-2 b"]


def test_during_an_upgrade_the_newer_one_is_asked_once_it_runs() -> None:
    old, new = pod("old", "node-1", "2026-01-01T00:00:00Z"), pod("new", "node-1", "2026-01-02T00:00:00Z")
    assert asked(new, old) == asked(old, new) == ["node-1 new"]
    starting = pod("new", "node-1", "2026-01-02T00:00:00Z", phase="Pending")
    assert asked(starting, old) == ["node-1 old"]
    leaving = pod("old", "node-1", "2026-01-03T00:00:00Z", deleted="2026-01-03T00:00:00Z")
    assert asked(leaving, new) == ["node-1 new"]


def test_a_pod_that_cannot_be_asked_has_the_reason() -> None:
    assert asked(pod("a", "node-1", phase="Pending")) == ["node-1 a its pod is Pending"]
    assert asked(pod("a", "node-1", deleted="x")) == ["node-1 a its pod is being deleted"]
    assert asked(pod("a", None), {}) == []
