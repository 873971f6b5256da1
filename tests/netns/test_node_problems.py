"""Problems of a node outside the agent: a running agent detects them, is not ready and gives the reason, and is ready again afterwards."""

import re

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.four_pods import NODE, cluster_with, ingress


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Pod a is isolated."""
    with cluster_with("--workers", "1", "--fail-open=false") as started:
        started.apply([ingress()])
        yield started


def ip(cluster: Cluster, *argv: str) -> None:
    done = cluster.box.run(NODE.name, ["ip", *argv])
    assert done.returncode == 0, done.stderr


def tables(cluster: Cluster) -> str:
    return cluster.box.run(NODE.name, ["nft", "list", "tables"]).stdout


def metric(cluster: Cluster, name: str) -> int:
    found = re.search(rf"^{name} (\d+)", cluster.agent.metrics(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_rules_that_set_the_agents_label_bits(cluster: Cluster) -> None:
    """Such a rule would open isolated pods."""
    assert cluster.agent.is_ready()
    assert metric(cluster, "netpolq_label_clashes") == 0
    cluster.box.nft("table inet other { chain opens { type filter hook forward priority 0; ct label set 120; }; }")
    cluster.agent.wait_until("not ready", lambda: not cluster.agent.is_ready())
    assert (
        "rules of chain inet other opens set bits of connection labels (120 and the next 6)" in cluster.agent.http("/readyz").body
    )
    assert "set --ct-label to bits that no rule sets, such as 121" in cluster.agent.http("/readyz").body
    assert metric(cluster, "netpolq_label_clashes") == 1
    cluster.box.nft("delete table inet other")
    cluster.agent.wait_until("ready", cluster.agent.is_ready)


def test_pods_on_a_bridge_are_guarded_for_as_long_as_they_are_on_it(cluster: Cluster) -> None:
    """Frames with VLAN tags do not pass between them, by the table bridge netpolq, which is restored when another program removes it."""
    assert "bridge netpolq" not in tables(cluster)
    ip(cluster, "link", "add", "pods", "type", "bridge")
    ip(cluster, "link", "set", "pods", "up")
    ip(cluster, "link", "set", "pod0", "master", "pods")
    ip(cluster, "route", "replace", cluster.box.address("x/a", 4), "dev", "pods")
    cluster.agent.wait_until("guarded", lambda: "bridge netpolq" in tables(cluster))
    cluster.agent.wait_until("counted", lambda: "netpolq_tagged_frames_total 0" in cluster.agent.metrics())
    cluster.box.nft("delete table bridge netpolq")
    cluster.agent.wait_until("guarded again", lambda: "bridge netpolq" in tables(cluster))
    assert cluster.agent.is_ready()
    ip(cluster, "link", "delete", "pods")
    cluster.agent.wait_until("no longer needed", lambda: "bridge netpolq" not in tables(cluster))
