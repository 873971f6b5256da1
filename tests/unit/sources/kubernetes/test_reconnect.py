"""Reconnection of the cluster source to an API server that returns with an older state, another authority, or not at once."""

import asyncio
import logging
import random
import socket
import time

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from netpolq.sources.kubernetes import connection as connections
from netpolq.sources.kubernetes.attempts import Attempts
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.reflector import Reflector
from netpolq.sources.kubernetes.resources import RESOURCES as READ
from netpolq.sources.kubernetes.watch import Changes
from tests.support.apiserver import (
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    RESOURCES,
    Answer,
    ApiServer,
    EndStream,
    GoSilent,
    NeverAnswer,
    SendLine,
    Verb,
)
from tests.support.cluster_reading import HURRIED, fill, pod, policy, reading, touch_every_kind
from tests.support.polling import until

PATIENT = replace(HURRIED, watch_s=(60.0, 60.0), idle_s=60.0, failures_before_relist=1000)
"""Neither the end of a watch nor its silence helps within the time of a test."""


async def test_a_server_restored_behind_the_known_version_is_listed_again_when_it_is_reached(tmp_path: Path) -> None:
    """A restored server answers a watch from a later version with 200 and silence: its version is asked for before the watch."""
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            await until(lambda: reader.agrees_with(server))
            checkpoint = server.store.checkpoint()
            server.put(policy("web", "app-2"))
            server.put(pod("new", "10.0.1.1"))
            await until(lambda: reader.agrees_with(server))
            await server.restore(checkpoint)
            await until(lambda: reader.agrees_with(server))


@pytest.mark.parametrize("kind", ["BOOKMARK", "MODIFIED", "ADDED", "DELETED"])
async def test_anything_of_a_lower_version_in_an_open_watch_leads_to_a_new_list_at_once(kind: str, tmp_path: Path) -> None:
    """An event or a bookmark with a version before the known one shows that the server's state is older."""
    async with ApiServer(bookmark_interval_s=60.0) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            checkpoint = server.store.checkpoint()
            server.put(policy("web", "app-2"))
            await until(lambda: reader.agrees_with(server))
            server.store.restore(checkpoint)
            metadata = {"name": "other", "namespace": "shop", "resourceVersion": str(checkpoint.resource_version)}
            line = orjson.dumps({"type": kind, "object": {"metadata": metadata}}) + b"\n"
            server.strike(SendLine(resource=NETWORK_POLICIES, line=line))
            await until(lambda: reader.agrees_with(server))


async def test_the_first_watch_that_is_silent_until_it_is_given_up_leads_to_a_new_list(tmp_path: Path) -> None:
    """A watch without a byte, bookmarks included, proves nothing about the state: one is enough to list everything."""
    timing = replace(PATIENT, idle_s=0.5)
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), timing) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            relists = reader.source.relists
            server.inject(GoSilent(resource=PODS))
            server.strike(EndStream(resource=PODS))
            await until(lambda: reader.source.relists == relists + 1)
            await until(lambda: not reader.source.problems)


async def test_a_watch_that_is_answered_and_says_nothing_is_no_contact(tmp_path: Path) -> None:
    """The age of the source rises while watches are silent, though the server answers 200."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(
            server.kubeconfig(tmp_path / "config"), replace(PATIENT, first_delay_s=0.5, max_delay_s=0.5)
        ) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            for resource in RESOURCES:
                server.inject(GoSilent(resource=resource))
            watches = len(server.asked(verb=Verb.WATCH))
            server.cut_connections()
            cut_ns = time.monotonic_ns()
            await server.until(lambda: len(server.asked(verb=Verb.WATCH)) == watches + 3)
            await asyncio.sleep(0.2)  # what must not happen has this long to happen
            assert reader.source.contact_ns is not None
            assert reader.source.contact_ns <= cut_ns + 100_000_000


async def test_a_rotated_authority_is_read_again(tmp_path: Path) -> None:
    """A certificate that the known authority did not sign has the kubeconfig and its files read again."""
    config = tmp_path / "config"
    async with ApiServer(tls=True, token="first", bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(config, token="first")) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.rotate_authority()
            await server.until(lambda: bool(reader.source.problems))
            server.kubeconfig(config, token="first")
            server.put(pod("after", "10.0.0.98"))
            await until(lambda: reader.agrees_with(server))


async def test_refusals_of_a_server_that_starts_do_not_lead_to_lists(tmp_path: Path) -> None:
    """A server that does not know its roles yet answers 403, one that is busy 503 or 429: the known version is still good."""
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            touch_every_kind(server)
            await until(lambda: reader.agrees_with(server))
            relists = reader.source.relists
            for resource in RESOURCES:
                for code in (403, 503, 429):
                    server.inject(Answer(resource=resource, code=code, reason="Injected", times=4))
            server.cut_connections()
            server.put(pod("after", "10.0.0.98"))
            await until(lambda: reader.agrees_with(server) and not server.faults and not reader.source.problems)
            assert reader.source.relists == relists


async def test_a_reflector_that_waits_tries_again_when_another_one_reaches_the_server(tmp_path: Path) -> None:
    """Back-off is about the server, which all reflectors share."""
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        for resource in (NAMESPACES, PODS):
            server.inject(NeverAnswer(resource=resource))
        connection = Connection(str(server.kubeconfig(tmp_path / "config")))
        await connection.open()

        def ignore(_changes: Changes) -> None:
            pass

        by_kind = {resource.kind: resource for resource in READ}
        slow = replace(HURRIED, first_delay_s=600.0, max_delay_s=600.0)
        waiting = Reflector(by_kind["Namespace"], connection, ignore, slow)
        first = asyncio.create_task(waiting.run())
        await until(lambda: waiting.problem is not None)
        assert not waiting.is_synced
        other = asyncio.create_task(Reflector(by_kind["Pod"], connection, ignore, HURRIED).run())
        await until(lambda: waiting.is_synced)
        for task in (first, other):
            task.cancel()
        await asyncio.gather(first, other, return_exceptions=True)
        await connection.close()


async def test_problems_that_differ_only_in_the_query_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt asks for another time or page; what is wrong is the same."""
    attempts = Attempts("Namespace", HURRIED, random.random)
    with caplog.at_level(logging.WARNING):
        for seconds in (310, 402, 555):
            attempts.fail(f"Connection timeout to host https://10.0.0.1/api/v1/pods?watch=true&timeoutSeconds={seconds}")
    assert [record.getMessage() for record in caplog.records] == [
        "Namespace: Connection timeout to host https://10.0.0.1/api/v1/pods; trying again"
    ]


async def test_connections_are_probed_so_that_a_dead_one_is_noticed_within_30_seconds(tmp_path: Path) -> None:
    """Every socket to the server has keepalive and a bound on unacknowledged data, which together cut it in time."""
    assert connections.KEEPALIVE_IDLE_S + connections.KEEPALIVE_PROBES * connections.KEEPALIVE_INTERVAL_S <= 30
    async with ApiServer() as server:
        fill(server)
        connection = Connection(str(server.kubeconfig(tmp_path / "config")))
        await connection.open()
        query = {"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": ""}
        query["allowWatchBookmarks"] = "true"
        async with connection.stream("/api/v1/pods", query, total_s=30.0, idle_s=30.0) as content:
            await content.readline()
            timers = [line for line in Path("/proc/net/tcp").read_text().splitlines() if f":{server.port:04X} 01 " in line]
            assert timers
            # Field `tr` 02: the keepalive timer runs. Source: Documentation/networking/proc_net_tcp.rst.
            assert {line.split()[5].split(":")[0] for line in timers if line.split()[2].endswith(f":{server.port:04X}")} == {"02"}
        await connection.close()
    made = connections._make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)))
    with made:
        assert 0 < made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000
