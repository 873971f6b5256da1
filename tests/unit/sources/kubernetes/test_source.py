"""The Kubernetes API source, against a test server that implements the protocol over real sockets."""

import asyncio
import random

from dataclasses import replace
from pathlib import Path

import pytest

from netpolq.errors import BootError
from netpolq.sources.kubernetes.source import ClusterSource
from tests.support.apiserver import (
    DISCOVERY,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    RESOURCES,
    Answer,
    ApiServer,
    CloseAbruptly,
    CutBody,
    CutLine,
    EndStream,
    Fault,
    GoSilent,
    NeverAnswer,
    Replay,
    Resource,
    SendError,
    SendLine,
    Slow,
    Verb,
    WatchFault,
    WatchListSupport,
)
from tests.support.cluster_reading import HURRIED, fill, namespace, pod, policy, reading, store_of
from tests.support.compiled import Compilation
from tests.support.polling import until


@pytest.mark.parametrize("support", WatchListSupport)
async def test_everything_is_read_whether_or_not_lists_are_streamed(support: WatchListSupport, tmp_path: Path) -> None:
    async with ApiServer(watch_list=support, bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            assert len(reader.updates) == 1, "the first sync is one update"
            server.put(pod("late", "10.0.0.99", app="app-1"))
            server.delete(PODS, "shop", "pod-3")
            await until(lambda: reader.agrees_with(server))
        assert bool(server.asked(PODS, Verb.LIST)) is (support is not WatchListSupport.FULL)


async def test_what_is_listed_again_comes_in_pages(tmp_path: Path) -> None:
    async with ApiServer(watch_list=WatchListSupport.REFUSED, bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            server.strike(SendError())
            server.put(pod("after", "10.0.0.98"))
            await server.until(lambda: sum("continue" in request.query for request in server.asked(PODS, Verb.LIST)) >= 2)
            await until(lambda: reader.agrees_with(server))


async def test_pages_that_expire_on_the_way_are_asked_for_as_one(tmp_path: Path) -> None:
    async with ApiServer(watch_list=WatchListSupport.REFUSED, bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            server.inject(Slow(resource=PODS, verb=Verb.LIST, bytes_per_s=20_000, times=1))
            server.strike(SendError())
            await server.until(lambda: len(server.asked(PODS, Verb.LIST)) >= 2)
            server.compact()
            server.put(pod("after", "10.0.0.98"))
            await until(lambda: reader.agrees_with(server))


async def test_nothing_is_delivered_before_every_kind_is_complete(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.inject(Answer(resource=NETWORK_POLICIES, times=None, code=503))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await server.until(lambda: len(server.asked(NETWORK_POLICIES)) >= 3)
            await server.until(lambda: server.open_watches(PODS) == 1)
            assert reader.updates == []
            assert any("503" in problem for problem in reader.source.problems)
            server.clear()
            await until(lambda: reader.agrees_with(server))
            assert len(reader.updates) == 1


FAULTS: list[Fault] = [
    CloseAbruptly(),
    NeverAnswer(),
    Answer(code=429, retry_after_s=1),
    Answer(code=500, times=4),
    Answer(code=503, reason="ServiceUnavailable"),
    Answer(code=410, reason="Expired"),
    Slow(bytes_per_s=4000),
    CutBody(after_bytes=200),
]
STREAM_FAULTS: list[WatchFault] = [
    GoSilent(),
    CutLine(),
    CutLine(cleanly=True),
    EndStream(),
    SendLine(),
    SendLine(line=b"\n"),
    SendError(),
    SendError(code=500, reason="InternalError"),
    SendError(code=410, reason="Gone"),
    Replay(),
    Replay(last=50, backwards=True),
]


@pytest.mark.parametrize("support", [WatchListSupport.FULL, WatchListSupport.REFUSED])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__ + str(getattr(fault, "code", "")))
async def test_a_fault_of_a_request_delays_and_changes_nothing(fault: Fault, support: WatchListSupport, tmp_path: Path) -> None:
    async with ApiServer(watch_list=support, bookmark_interval_s=0.2) as server:
        fill(server)
        for resource in RESOURCES:
            server.inject(replace(fault, resource=resource))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            server.delete(PODS, "shop", "pod-1")
            await until(lambda: reader.agrees_with(server))


@pytest.mark.parametrize("fault", STREAM_FAULTS, ids=lambda fault: type(fault).__name__)
async def test_a_fault_of_an_open_watch_delays_and_changes_nothing(fault: WatchFault, tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            for number in range(4):
                server.put(pod("busy", "10.0.0.50", app=f"app-{number}"))
            server.put(pod("gone", "10.0.0.51"))
            server.delete(PODS, "shop", "gone")
            await until(lambda: reader.agrees_with(server))
            assert server.strike(fault) == 3
            sizes = len(reader.updates)
            server.put(pod("after", "10.0.0.98", app="app-2"))
            server.delete(NETWORK_POLICIES, "shop", "web")
            server.put(namespace("shop", team="changed"))
            await until(lambda: reader.agrees_with(server))
            assert len(reader.updates) > sizes
            assert not any("shop/pod-0" in str(key) for update in reader.updates for key in update.deleted)


async def test_a_restart_that_forgot_its_history_leads_to_a_new_list_and_never_to_an_empty_store(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            relists = reader.source.relists
            server.delete(PODS, "shop", "pod-0")
            await until(lambda: reader.agrees_with(server))
            await server.refuse_connections()
            server.cut_connections()
            server.store.delete(PODS, "shop", "pod-1")
            server.compact()
            await asyncio.sleep(0.2)
            await server.accept_connections()
            await until(lambda: reader.agrees_with(server))
            assert reader.source.relists > relists
            assert max(len(update.deleted) for update in reader.updates) == 1


async def test_a_server_restored_from_an_older_state_is_believed(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            checkpoint = server.store.checkpoint()
            for number in range(20):
                server.put(pod(f"new-{number}", f"10.0.1.{number + 1}"))
            server.delete(PODS, "shop", "pod-2")
            await until(lambda: reader.agrees_with(server))
            await server.restore(checkpoint, down_s=0.1)
            await until(lambda: reader.agrees_with(server))


async def test_half_open_connections_are_given_up(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            await server.until(lambda: server.open_watches() == 3)
            server.strike(GoSilent())
            for resource in RESOURCES:
                server.inject(NeverAnswer(resource=resource))
            server.put(pod("unseen", "10.0.0.97"))
            await until(lambda: reader.agrees_with(server))


async def test_a_rejected_policy_isolates_is_reported_and_cleared(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        broken = {**policy("web", "x"), "spec": {"podSelector": {}, "ingress": [{"from": [{}]}]}}
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
            server.put(broken)
            await until(lambda: len(reader.store.rejections) == 1)
            kept = reader.store.policies["shop", "web"]
            assert kept.ingress == ()
            assert kept.policy_types
            server.put(policy("web", "app-2"))
            await until(lambda: reader.agrees_with(server))
            assert reader.store.rejections == ()


async def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    async with ApiServer(tls=True, token="first", bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config", token_file=token)) as reader:
            await until(lambda: reader.agrees_with(server))
            server.rotate_token("second")
            server.cut_connections()
            await server.until(lambda: bool(reader.source.problems))
            token.write_text("second")
            server.put(pod("after", "10.0.0.98"))
            await until(lambda: reader.agrees_with(server))


async def test_an_exec_plugin_gives_the_token_and_is_asked_again_when_it_is_refused(tmp_path: Path) -> None:
    token, plugin = tmp_path / "token", tmp_path / "plugin.sh"
    token.write_text("first")
    credential = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "%s"}}'
    plugin.write_text(f"#!/bin/sh\nprintf '{credential}' \"$(cat {token})\"\n")
    plugin.chmod(0o700)
    async with ApiServer(tls=True, token="first", bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config", exec_plugin=[str(plugin)])) as reader:
            await until(lambda: reader.agrees_with(server))
            server.rotate_token("second")
            token.write_text("second")
            server.cut_connections()
            server.put(pod("after", "10.0.0.98"))
            await until(lambda: reader.agrees_with(server))


async def test_a_client_certificate_is_enough(tmp_path: Path) -> None:
    async with ApiServer(tls=True, client_certificates=True) as server:
        fill(server)
        assert server.authority is not None
        config = server.kubeconfig(tmp_path / "config", client_certificate=server.authority.client())
        async with reading(config) as reader:
            await until(lambda: reader.agrees_with(server))


async def test_only_what_the_role_allows_is_asked(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.agrees_with(server))
        assert {(request.method, request.resource) for request in server.requests} == {
            ("GET", NAMESPACES),
            ("GET", PODS),
            ("GET", NETWORK_POLICIES),
            ("GET", DISCOVERY),
        }


@pytest.mark.parametrize("content", ["", "{", "apiVersion: v1\nkind: Config\n", "[]"])
async def test_a_kubeconfig_that_cannot_be_used_is_named(content: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(content)
    with pytest.raises(BootError, match="--kubeconfig"):
        await ClusterSource(str(config), HURRIED).run(lambda _update: None)


async def test_without_a_pod_and_without_a_kubeconfig_it_is_said_what_to_give() -> None:
    with pytest.raises(BootError, match="--manifests DIR"):
        await ClusterSource("", HURRIED).run(lambda _update: None)


def _random_change(rng: random.Random, server: ApiServer) -> None:
    name = f"n{rng.randrange(6)}"
    match rng.randrange(6):
        case 0:
            server.put(namespace(rng.choice(("shop", "ops")), team=rng.choice("ab")))
        case 1 | 2:
            server.put(pod(name, f"10.0.0.{rng.randrange(1, 9)}", app=rng.choice("ab")))
        case 3:
            server.put(policy(name, rng.choice("ab")))
        case 4:
            _delete_if_there(server, PODS, name)
        case _:
            _delete_if_there(server, NETWORK_POLICIES, name)


def _delete_if_there(server: ApiServer, resource: Resource, name: str) -> None:
    if f"shop/{name}" in server.objects(resource):
        server.delete(resource, "shop", name)


async def _random_fault(rng: random.Random, server: ApiServer) -> None:
    match rng.randrange(6):
        case 0:
            await server.restart(compact=rng.random() < 0.5, down_s=rng.random() * 0.1)
        case 1 | 2:
            server.strike(rng.choice(STREAM_FAULTS))
        case 3 | 4:
            server.inject(rng.choice(FAULTS))
        case _:
            server.compact()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happened_once_it_is_quiet_store_and_snapshot_are_those_of_the_server(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    support = list(WatchListSupport)[seed % 3]
    async with ApiServer(watch_list=support, bookmark_interval_s=0.2, compacted_watch_is_http=seed % 2 == 0) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            for _ in range(60):
                _random_change(rng, server)
                if rng.random() < 0.35:
                    await _random_fault(rng, server)
                await asyncio.sleep(rng.random() * 0.05)
            server.clear()
            await until(lambda: reader.agrees_with(server))
            # A replay may still be on its way: what is there must stay there.
            await asyncio.sleep(0.5)
            assert reader.agrees_with(server)
            expected = Compilation(store_of(server))
            expected.update()
            assert reader.compilation.meaning() == expected.meaning()
