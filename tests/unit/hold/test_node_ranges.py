"""The pod ranges of a Node: which values of the API server are valid, and how long the agent requests them."""

import asyncio
import logging

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from netpolq.hold.ranges import listed
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.node import NodeReader
from netpolq.sources.kubernetes.source import ClusterSource
from tests.support.apiserver import PODS, ApiServer, NeverAnswer
from tests.support.cluster_reading import HURRIED, Reader, fill
from tests.support.polling import until

NAME = "node-1"


@asynccontextmanager
async def asking(
    server: ApiServer, folder: Path, *, is_synced: bool = True
) -> AsyncIterator[tuple[NodeReader, "asyncio.Task[None]"]]:
    """A reader of the Node that is at work."""
    connection = Connection(str(server.kubeconfig(folder / "config")))
    await connection.open()
    reader = NodeReader(NAME, connection, lambda: is_synced, ask_s=0.02)
    task = asyncio.create_task(reader.run())
    try:
        yield reader, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"podCIDR": "10.5.1.0/24", "podCIDRs": ["10.5.1.0/24", "fd05:1::/64"]}, "10.5.1.0/24,fd05:1::/64"),
        ({"podCIDR": "10.5.1.0/24"}, "10.5.1.0/24"),
        ({"podCIDRs": ["10.5.1.0/24"], "podCIDR": "10.6.1.0/24"}, "10.5.1.0/24,10.6.1.0/24"),
        ({"podCIDRs": ["::ffff:10.5.1.0/120"]}, "10.5.1.0/24"),
        ({"podCIDR": "", "podCIDRs": []}, ""),
        ({"podCIDR": None, "podCIDRs": None}, ""),
        ({}, ""),
        (None, ""),
    ],
)
async def test_both_fields_name_ranges_and_none_is_no_fault(
    spec: object, expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Many network plugins assign addresses without the Node's ranges."""
    async with ApiServer() as server:
        server.node_specs[NAME] = spec
        async with asking(server, tmp_path) as (node, task):
            await until(lambda: node.exists is True)
            assert listed(node.pod_ranges) == expected
            if expected:
                await task
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("spec", "logged"),
    [
        ({"podCIDRs": ["10.5.1.0/24", "0.0.0.0/0"]}, "spec.podCIDRs[1] '0.0.0.0/0'"),
        ({"podCIDRs": ["::/0", "10.5.1.0/24"]}, "spec.podCIDRs[0] '::/0'"),
        ({"podCIDRs": ["127.0.0.0/8", "10.5.1.0/24"]}, "spec.podCIDRs[0] '127.0.0.0/8'"),
        ({"podCIDRs": ["10.5.1.0/24", "10.6.1.0"]}, "spec.podCIDRs[1] '10.6.1.0'"),
        ({"podCIDRs": ["10.5.1.0/24", 3, None, ["10.7.0.0/16"]]}, "spec.podCIDRs[2] None"),
        ({"podCIDRs": ["10.5.1.0/24", "10.6.1.0/24; flush ruleset"]}, "spec.podCIDRs[1] '10.6.1.0/24; flush"),
        ({"podCIDRs": ["10.5.1.0/24", "a\nb"]}, r"spec.podCIDRs[1] 'a\nb'"),
        ({"podCIDR": "10.5.1.0/24", "podCIDRs": {"0": "10.6.1.0/24"}}, "spec.podCIDRs {"),
        ({"podCIDR": 7, "podCIDRs": ["10.5.1.0/24"]}, "spec.podCIDR 7"),
        ({"podCIDRs": ["10.5.1.0/24"] * 16 + ["10.6.1.0/24"]}, "spec.podCIDRs[16:]"),
    ],
)
async def test_what_is_no_range_is_told_once_and_hides_no_other(
    spec: object, logged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hold of all addresses would cut the node off; a good range beside a bad one is held."""
    async with ApiServer() as server:
        server.node_specs[NAME] = spec
        async with asking(server, tmp_path, is_synced=False) as (node, task):
            await task
            assert listed(node.pod_ranges) == "10.5.1.0/24"
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert logged in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("spec", ["text", 3, [], ["10.5.1.0/24"]])
async def test_a_spec_that_is_no_object_names_no_range(spec: object, tmp_path: Path) -> None:
    """It is the Node all the same."""
    async with ApiServer() as server:
        server.node_specs[NAME] = spec
        async with asking(server, tmp_path) as (node, _task):
            await until(lambda: node.exists is not None)
            assert (node.exists, node.pod_ranges) == (True, ())


@pytest.mark.parametrize("is_synced", [False, True])
async def test_the_node_is_asked_until_it_names_ranges(is_synced: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A controller writes them after the kubelet has registered the Node. A value that stays bad is logged once."""
    async with ApiServer() as server:
        server.node_specs[NAME] = {"podCIDR": "pods"}
        async with asking(server, tmp_path, is_synced=is_synced) as (node, task):
            await until(lambda: len(server.requests) > 2)
            assert (node.exists, node.pod_ranges) == (True, ())
            server.node_specs[NAME] = {"podCIDRs": ["fd05:1::/64"]}
            await task
            assert listed(node.pod_ranges) == "fd05:1::/64"
    assert len([record for record in caplog.records if "'pods'" in record.getMessage()]) == 1


async def test_a_permission_that_is_taken_away_does_not_take_away_what_is_known(tmp_path: Path) -> None:
    async with ApiServer() as server, asking(server, tmp_path, is_synced=False) as (node, _task):
        await until(lambda: node.exists is True)
        server.nodes_forbidden = True
        asked = len(server.requests)
        await until(lambda: len(server.requests) > asked)
        await asyncio.sleep(0)
        assert node.exists is True


async def test_a_source_knows_the_ranges_before_it_is_synced(tmp_path: Path) -> None:
    """The list of pods never arrives."""
    async with ApiServer() as server:
        fill(server)
        server.node_specs[NAME] = {"podCIDRs": ["10.5.1.0/24"]}
        server.inject(NeverAnswer(resource=PODS, times=None))
        source = ClusterSource(str(server.kubeconfig(tmp_path / "config")), HURRIED, node_name=NAME)
        reader = Reader(source)
        task = asyncio.create_task(source.run(reader.deliver))
        await until(lambda: bool(source.pod_ranges))
        assert not reader.store.synced
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
