"""Nodes are watched while a policy has node peers, and such a policy waits for them."""

from dataclasses import replace
from pathlib import Path

import pytest

from netpolq.model import Node, ObjectKey, Rejection
from netpolq.sources.kubernetes.node_peers import NodePeers
from netpolq.sources.kubernetes.watch import Changes
from tests.support.apiserver import CLUSTER_POLICIES, NODES, PODS, Answer, ApiServer, Body
from tests.support.cluster_reading import HURRIED, Reader, fill, pod, reading
from tests.support.polling import until

NEVER_ALONE = replace(HURRIED, nodes_s=600.0)
"""The wait for the nodes does not end within the time of a test."""


def node(name: str, address: str, *, heartbeat: int = 0, **labels: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "lastHeartbeatTime": str(heartbeat)}],
        },
    }


def cluster_policy(name: str, *, for_nodes: bool) -> Body:
    peer: Body = {"nodes": {}} if for_nodes else {"namespaces": {}}
    rule = {"action": "Deny", "to": [peer]}
    spec = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": [rule]}
    version = CLUSTER_POLICIES.api_version
    return {"apiVersion": version, "kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": spec}


def _fill(server: ApiServer) -> None:
    fill(server)
    server.serve(CLUSTER_POLICIES, "v1alpha2")
    server.put(node("node-1", "192.0.2.1", zone="a"))
    server.put(node("node-2", "192.0.2.2", zone="b"))


def _has_node_rules(reader: Reader) -> bool:
    policy = reader.store.cluster_policies.get("nodes")
    return policy is not None and ObjectKey("ClusterNetworkPolicy", "", "nodes") in reader.source._node_peers.used_by


async def test_nodes_are_watched_only_while_a_policy_has_node_peers(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        _fill(server)
        server.put(cluster_policy("other", for_nodes=False))
        async with reading(server.kubeconfig(tmp_path / "config"), NEVER_ALONE) as reader:
            await until(lambda: reader.store.synced)
            assert not server.asked(NODES)
            server.put(cluster_policy("nodes", for_nodes=True))
            await until(lambda: len(reader.store.nodes) == 2)
            server.put(cluster_policy("nodes", for_nodes=False))
            await until(lambda: not reader.store.nodes)
            await server.until(lambda: server.open_watches(NODES) == 0)
            server.put(cluster_policy("nodes", for_nodes=True))
            await until(lambda: len(reader.store.nodes) == 2)
            server.delete_crd(CLUSTER_POLICIES)
            await until(lambda: not reader.store.nodes)
            assert reader.source.problems == []


async def test_the_first_update_has_the_nodes(tmp_path: Path) -> None:
    async with ApiServer() as server:
        _fill(server)
        server.put(cluster_policy("nodes", for_nodes=True))
        server.inject(Answer(resource=NODES, times=3, code=503))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.store.synced)
            assert set(reader.store.nodes) == {"node-1", "node-2"}
            assert len(reader.updates) == 1


async def test_a_policy_waits_for_the_nodes_and_other_changes_do_not(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        _fill(server)
        server.put(cluster_policy("nodes", for_nodes=False))
        async with reading(server.kubeconfig(tmp_path / "config"), NEVER_ALONE) as reader:
            await until(lambda: reader.store.synced)
            before = reader.store.cluster_policies["nodes"]
            server.inject(Answer(resource=NODES, times=None, code=503))
            server.put(cluster_policy("nodes", for_nodes=True))
            await server.until(lambda: len(server.asked(NODES)) >= 2)
            server.put(pod("after", "10.0.0.98"))
            server.put(cluster_policy("other", for_nodes=False))
            await until(lambda: ("shop", "after") in reader.store.pods and "other" in reader.store.cluster_policies)
            assert reader.store.cluster_policies["nodes"] == before
            server.clear()
            await until(lambda: reader.store.cluster_policies["nodes"] != before)
            (update,) = [each for each in reader.updates if any(isinstance(item, Node) for item in each.upserted)]
            assert {item.name for item in update.upserted if isinstance(item, Node)} == {"node-1", "node-2"}
            assert reader.store.cluster_policies["nodes"] in update.upserted


async def test_the_wait_for_the_nodes_ends_and_the_status_names_the_policy_and_the_permission(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        _fill(server)
        server.forbid(NODES)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.store.synced)
            server.put(cluster_policy("nodes", for_nodes=True))
            await until(lambda: _has_node_rules(reader))
            assert reader.source.contact_ns is not None
            refused, waited = reader.source.problems
            assert refused.startswith("Node cannot be read: 403")
            assert refused.endswith('must permit list and watch of nodes in API group ""')
            assert waited == "the nodes are not known, so node peers match nothing: ClusterNetworkPolicy nodes"
            server.forbid()
            await until(lambda: len(reader.store.nodes) == 2 and not reader.source.problems)


@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "without node peers"])
async def test_a_policy_that_waits_and_needs_no_nodes_any_more_waits_no_longer(is_deleted: bool, tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        _fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), NEVER_ALONE) as reader:
            await until(lambda: reader.store.synced)
            server.inject(Answer(resource=NODES, times=None, code=503))
            server.put(cluster_policy("nodes", for_nodes=True))
            await server.until(lambda: bool(server.asked(NODES)))
            if is_deleted:
                server.delete(CLUSTER_POLICIES, "", "nodes")
            else:
                server.put(cluster_policy("nodes", for_nodes=False))
            server.put(cluster_policy("last", for_nodes=False))
            await until(lambda: "last" in reader.store.cluster_policies)
            assert ("nodes" in reader.store.cluster_policies) is not is_deleted
            await until(lambda: not reader.source.problems)


async def test_a_heartbeat_of_a_node_causes_no_update(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        _fill(server)
        server.put(cluster_policy("nodes", for_nodes=True))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.store.synced)
            await server.until(lambda: server.open_watches(NODES) == 1)
            count = len(reader.updates)
            for heartbeat in range(1, 6):
                server.put(node("node-1", "192.0.2.1", heartbeat=heartbeat, zone="a"))
            server.put(node("node-2", "192.0.2.9", zone="b"))
            await until(lambda: len(reader.updates) > count)
            nodes = [item for update in reader.updates[count:] for item in update.upserted if isinstance(item, Node)]
            assert [item.name for item in nodes] == ["node-2"]
            server.delete(PODS, "shop", "pod-1")
            server.delete(NODES, "", "node-2")
            await until(lambda: set(reader.store.nodes) == {"node-1"})


KEY = ObjectKey("Node", "", "node-1")
NODE = Node(name="node-1", labels={}, addresses=())
OTHER = replace(NODE, labels={"zone": "a"})
BAD = Rejection(origin="", message="m", consequence="c")


def _put(item: Node, rejection: Rejection | None = None) -> Changes:
    return Changes(upserted={KEY: item}, rejections={KEY: rejection} if rejection else {})


def _unreadable() -> Changes:
    return Changes(deleted={KEY}, rejections={KEY: BAD})


SEQUENCES: dict[str, tuple[list[Changes], list[bool]]] = {
    "the same": ([_put(NODE), _put(NODE)], [True, False]),
    "another": ([_put(NODE), _put(OTHER), _put(NODE)], [True, True, True]),
    "deleted": ([_put(NODE), Changes(deleted={KEY}), Changes(deleted={KEY}), _put(NODE)], [True, True, False, True]),
    "unreadable": ([_put(NODE), _unreadable(), _unreadable(), _put(NODE)], [True, True, False, True]),
    "partly readable": ([_put(NODE), _put(NODE, BAD), _put(NODE, BAD), _put(NODE)], [True, True, False, True]),
    "never readable": ([_unreadable(), _unreadable(), Changes(deleted={KEY})], [True, False, True]),
}


@pytest.mark.parametrize(("steps", "expected"), SEQUENCES.values(), ids=SEQUENCES)
def test_what_differs_from_what_is_in_force_passes(steps: list[Changes], expected: list[bool]) -> None:
    node_peers = NodePeers()
    passed = []
    for changes in steps:
        copy = Changes(dict(changes.upserted), set(changes.deleted), dict(changes.rejections))
        node_peers.drop_unchanged(copy)
        passed.append(bool(copy))
    assert passed == expected
