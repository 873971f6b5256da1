"""An unknown node name: the agent is not ready and names the setting, because it would enforce nothing."""

import asyncio

from pathlib import Path

import pytest

from netpolq.hold.ranges import parse_ranges
from netpolq.model import Pod, Update
from netpolq.sources.folder.source import ManifestFolder
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.node import NodeReader
from netpolq.sources.kubernetes.source import ClusterSource
from netpolq.store import Store
from netpolq.supervisor.node_name import node_name_problem
from tests.support.apiserver import ApiServer
from tests.support.cluster_reading import HURRIED, Reader, fill
from tests.support.polling import until


async def problem_of(server: ApiServer, node_name: str, directory: Path) -> str | None:
    """What an agent of this node would say as soon as it has read everything and asked for its Node."""
    source = ClusterSource(str(server.kubeconfig(directory / "config")), HURRIED, node_name=node_name)
    reader = Reader(source)
    task = asyncio.create_task(source.run(reader.deliver))
    path = f"/api/v1/nodes/{node_name}"
    await until(lambda: reader.store.synced and any(request.path == path for request in server.requests))
    if not server.nodes_forbidden:
        await until(lambda: source.node_exists is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return node_name_problem(source, reader.store, node_name)


@pytest.mark.parametrize("name", ["node-1.example.org", "node-2"])
async def test_a_node_that_the_server_does_not_have_is_a_problem_that_names_the_flag(name: str, tmp_path: Path) -> None:
    """The agent would enforce nothing: no pod is on a node of this name."""
    async with ApiServer() as server:
        fill(server)
        server.nodes = {"node-1"}
        assert await problem_of(server, name, tmp_path) == (
            f'the API server has no Node "{name}"; set --hostname-override to spec.nodeName of this node\'s pods'
        )


async def test_a_node_without_pods_is_good(tmp_path: Path) -> None:
    """A new node has no pods yet."""
    async with ApiServer() as server:
        fill(server)
        server.nodes = {"node-1", "node-2"}
        assert await problem_of(server, "node-2", tmp_path) is None


@pytest.mark.parametrize(("name", "is_good"), [("node-1", True), ("node-2", False)])
async def test_with_a_role_that_does_not_permit_nodes_the_pods_decide(name: str, is_good: bool, tmp_path: Path) -> None:
    """An agent whose role was not updated works as before, and still finds a wrong name."""
    async with ApiServer() as server:
        fill(server)
        server.nodes_forbidden = True
        advice = f'no pod of the source is on node "{name}"; set --hostname-override to spec.nodeName of this node\'s pods'
        assert await problem_of(server, name, tmp_path) == (None if is_good else advice)


async def test_a_node_that_is_registered_later_is_found_and_its_ranges_after_it(tmp_path: Path) -> None:
    """The agent may start before the kubelet has registered the Node, and sync before a controller has written its pod ranges."""
    async with ApiServer() as server:
        server.nodes = set()
        connection = Connection(str(server.kubeconfig(tmp_path / "config")))
        await connection.open()
        node = NodeReader("node-1", connection, lambda: True, ask_s=0.02)
        task = asyncio.create_task(node.run())
        await until(lambda: node.exists is False)
        server.nodes.add("node-1")
        await until(lambda: node.exists is True)
        assert node.pod_ranges == ()
        server.node_specs["node-1"] = {"podCIDRs": ["10.1.0.0/24"]}
        await task
        assert node.pod_ranges == parse_ranges("10.1.0.0/24")
        await connection.close()


@pytest.mark.parametrize(
    ("named", "is_good"),
    [([], True), ([""], True), (["node-2", "node-1"], True), (["node-2"], False), (["node-2", "node-3"], False)],
)
def test_of_a_folder_some_pod_is_on_this_node_or_on_none(named: list[str], is_good: bool, tmp_path: Path) -> None:
    """A folder has no Nodes. Pods of other nodes alone leave nothing to enforce; a pod without a node is local."""
    store = Store()
    pods = tuple(Pod(namespace="shop", name=f"p{index}", labels={}, ips=(), node_name=name) for index, name in enumerate(named))
    store.apply(Update(upserted=pods, ignored={}, observed_ns=0))
    problem = node_name_problem(ManifestFolder(tmp_path), store, "node-1")
    if is_good:
        assert problem is None
    else:
        assert problem is not None
        assert "'node-1', the name of this node (--hostname-override)" in problem
        assert "'node-2'" in problem
