"""What a cluster source does when etcd is restored to an older state while no watch is open, and writes pass the known version before the
source is back: the version is not lower than before, but it belongs to another history.
"""

import asyncio
import contextlib
import random

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.reflector import Reflector
from netpolq.sources.kubernetes.resources import RESOURCES as READ
from tests.support.apiserver import NAMESPACES, NETWORK_POLICIES, PODS, RESOURCES, ApiServer, Body, GoSilent, Verb
from tests.support.apiserver.store import Checkpoint
from tests.support.cluster_reading import (
    HURRIED,
    Reader,
    fill,
    namespace,
    pod,
    policy,
    reading,
    touch_every_kind,
)
from tests.support.polling import until

PATIENT = replace(HURRIED, watch_s=(60.0, 60.0), idle_s=60.0, failures_before_relist=1000)
"""Neither the end of a watch nor its silence helps within the time of a test."""

NEVER = replace(PATIENT, relist_s_per_object=600.0, max_relist_s=600.0)
"""A list that is scheduled does not come within the time of a test either."""

Change = Callable[[ApiServer], object]

LOST: dict[str, Change] = {
    "policy deleted": lambda server: server.delete(NETWORK_POLICIES, "shop", "web"),
    "policy changed": lambda server: server.put(policy("web", "app-2")),
    "policy created": lambda server: server.put(policy("later", "app-2")),
    "pod relabelled": lambda server: server.put(pod("pod-1", "10.0.0.2", app="other")),
    "pod deleted": lambda server: server.delete(PODS, "shop", "pod-1"),
    "pod created": lambda server: server.put(pod("later", "10.0.0.77")),
    "namespace relabelled": lambda server: server.put(namespace("shop", team="other")),
    "namespace deleted": lambda server: server.delete(NAMESPACES, "", "ops"),
    "pods exchanged": lambda server: (
        server.delete(PODS, "shop", "pod-1"),
        server.put(pod("later", "10.0.0.2")),
    ),
}
"""Changes after the backup, which the restore undoes; or changes after the restore, of versions that are known from before."""

SINGLE = [change for name, change in LOST.items() if name != "pods exchanged"]


def _versions(reader: Reader) -> list[int]:
    """How far each kind is known."""
    return [int(reflector._replica.resume_version or 0) for reflector in reader.source._reflectors]


async def _until_known(reader: Reader, server: ApiServer) -> None:
    """Wait until everything is received, and bookmarks of every kind have given the server's version."""
    await until(lambda: reader.agrees_with(server) and min(_versions(reader)) == server.store.resource_version)


async def _restore_while_away(server: ApiServer, checkpoint: Checkpoint, *writes: Change, keeps_history: bool = False) -> None:
    """The server goes away, its state goes back, is changed, and has passed every version from before when the server is back."""
    before = server.store.resource_version
    await server.refuse_connections()
    server.cut_connections()
    server.store.restore(checkpoint, keeps_history=keeps_history)
    for write in writes:
        write(server)
    server.advance(max(before + 5 - server.store.resource_version, 1))
    await server.accept_connections()


@pytest.mark.parametrize("keeps_history", [False, True], ids=["watch cache", "etcd history"])
@pytest.mark.parametrize("change", LOST.values(), ids=LOST)
async def test_changes_that_a_restore_undoes_are_undone_here(change: Change, keeps_history: bool, tmp_path: Path) -> None:
    """What was changed after the backup is again as in the backup, though the server's version is above the known one."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            await _until_known(reader, server)
            checkpoint = server.store.checkpoint()
            change(server)
            await _until_known(reader, server)
            relists = reader.source.relists
            await _restore_while_away(server, checkpoint, keeps_history=keeps_history)
            await until(lambda: reader.agrees_with(server))
            await until(lambda: not reader.source.problems)
            assert reader.source.relists <= relists + len(RESOURCES), "more than one list of a kind"


@pytest.mark.parametrize("keeps_history", [False, True], ids=["watch cache", "etcd history"])
@pytest.mark.parametrize("change", LOST.values(), ids=LOST)
async def test_changes_after_a_restore_are_seen_though_their_versions_are_known_ones(
    change: Change, keeps_history: bool, tmp_path: Path
) -> None:
    """Between the backup and the outage nothing changed; what is written after the restore has versions that a bookmark had passed."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            await _until_known(reader, server)
            touch_every_kind(server)
            await _until_known(reader, server)
            checkpoint = server.store.checkpoint()
            server.advance(20)
            await _until_known(reader, server)
            relists = reader.source.relists
            await _restore_while_away(server, checkpoint, change, keeps_history=keeps_history)
            await until(lambda: reader.agrees_with(server))
            if keeps_history:
                assert reader.source.relists == relists, "the watch went on from before the restored state, which is enough"


async def test_a_restore_that_undoes_a_change_is_found_before_any_list_that_is_scheduled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The evidence alone is enough where the server has the versions: one warning names the event that was received before."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), NEVER) as reader:
            await _until_known(reader, server)
            checkpoint = server.store.checkpoint()
            server.advance()
            server.put(policy("web", "app-2"))
            await _until_known(reader, server)
            await _restore_while_away(server, checkpoint, lambda restored: restored.put(policy("later", "app-2")))
            await until(lambda: reader.agrees_with(server))
        warnings = [record.getMessage() for record in caplog.records if "listing again" in record.getMessage()]
        assert len(warnings) == 1
        known = f"version {checkpoint.resource_version + 2} of NetworkPolicy shop/web"
        assert f"does not send {known}, which was received before; listing again" in warnings[0]


def _recreate(server: ApiServer) -> None:
    server.delete(PODS, "shop", "pod-1")
    server.put(pod("pod-1", "10.0.0.2", app="changed"))


def _written_pod(time: str) -> Body:
    """A pod that was changed at a time, as the server notes it."""
    changed = pod("pod-1", "10.0.0.2", app="changed")
    metadata = {**cast("Body", changed["metadata"]), "managedFields": [{"manager": "kubelet", "time": time}, {"manager": "x"}]}
    return {**changed, "metadata": metadata}


def _rewrite(server: ApiServer) -> None:
    server.advance()
    server.put(_written_pod("2024-05-01T10:00:01Z"))


@pytest.mark.parametrize("write", [_recreate, _rewrite], ids=["another uid", "another time"])
async def test_an_event_of_the_same_version_and_name_is_no_proof_if_it_is_another_one(write: Change, tmp_path: Path) -> None:
    """Two histories may change the same object in the same version: its uid or the time of the change is another one."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), NEVER) as reader:
            await _until_known(reader, server)
            checkpoint = server.store.checkpoint()
            server.delete(PODS, "shop", "pod-2")
            server.put(_written_pod("2024-05-01T09:00:00Z"))
            await _until_known(reader, server)
            await _restore_while_away(server, checkpoint, write)
            await until(lambda: reader.agrees_with(server))


async def test_a_watch_that_falls_silent_and_comes_back_to_a_restored_server_is_listed_again(tmp_path: Path) -> None:
    """A proxy keeps a watch open that has delivered data, while the server behind it is restored: the silence ends the watch."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), replace(NEVER, idle_s=0.5)) as reader:
            await _until_known(reader, server)
            checkpoint = server.store.checkpoint()
            server.put(policy("web", "app-2"))
            await _until_known(reader, server)
            before = server.store.resource_version
            assert server.strike(GoSilent()) == len(RESOURCES)
            server.store.restore(checkpoint)
            server.advance(max(before + 5 - server.store.resource_version, 1))
            await until(lambda: reader.agrees_with(server))


async def test_a_restart_with_its_history_makes_no_list(tmp_path: Path) -> None:
    """The last event of each kind comes again and proves the history: nothing is listed, and what changed meanwhile is there."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            await _until_known(reader, server)
            touch_every_kind(server)
            await _until_known(reader, server)
            server.advance(20)
            await _until_known(reader, server)
            relists, updates = reader.source.relists, len(reader.updates)
            for number in range(3):
                await server.refuse_connections()
                server.cut_connections()
                server.store.put(pod("meanwhile", f"10.0.0.{100 + number}"))
                await server.accept_connections()
                await until(lambda: reader.agrees_with(server))
                await server.until(lambda: server.open_watches() == len(RESOURCES))
                await _until_known(reader, server)
            assert reader.source.relists == relists
            assert len(reader.updates) == updates + 3, "the event that proves the history is no change"
            assert all("limit" in request.query for request in server.asked(verb=Verb.LIST))


async def test_without_a_proof_the_watch_goes_on_and_everything_is_listed_later_once(tmp_path: Path) -> None:
    """A server that forgot the last event: agents do not all list at once, but each lists at a random time within the bound."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        connection = Connection(str(server.kubeconfig(tmp_path / "config")))
        await connection.open()
        timing = replace(PATIENT, relist_s_per_object=1.0, max_relist_s=3.0)
        deliveries: list[object] = []
        resource = next(each for each in READ if each.kind == "Pod")
        reflector = Reflector(resource, connection, deliveries.append, timing, noise=lambda: 1.0)
        task = asyncio.create_task(reflector.run())
        await until(lambda: reflector.is_synced)
        server.put(pod("touched", "10.0.0.90"))
        server.advance(20)
        await until(lambda: reflector._replica.resume_version == str(server.store.resource_version))
        await server.restart(compact=True)
        await server.until(lambda: server.open_watches() == 1)
        delivered = len(deliveries)
        server.put(pod("meanwhile", "10.0.0.91"))
        await until(lambda: len(deliveries) > delivered)
        assert reflector.relists == 1, "the watch goes on before the list"
        await until(lambda: reflector.relists == 2)
        await server.until(lambda: server.open_watches() == 1)
        await until(lambda: reflector._delayed_list.remaining_s is None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


async def test_where_connections_are_cut_all_the_time_such_lists_do_not_follow_each_other(tmp_path: Path) -> None:
    """A proxy that cuts silent connections does not make each cut a list: after one of them the next comes `max_relist_s` later."""
    timing = replace(PATIENT, relist_s_per_object=0.0, max_relist_s=600.0)
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), timing) as reader:
            await _until_known(reader, server)
            relists = reader.source.relists
            for _ in range(3):
                await server.until(lambda: server.open_watches() == len(RESOURCES))
                await until(
                    lambda: not any(each._is_contact_lost or each._replica.is_arriving for each in reader.source._reflectors)
                )
                server.cut_connections()
                await server.until(lambda: server.open_watches() == 0)
            server.put(pod("after", "10.0.0.98"))
            await until(lambda: reader.agrees_with(server))
            assert reader.source.relists == relists + len(RESOURCES)


async def test_a_watch_that_ends_in_the_ordinary_way_leads_to_no_list(tmp_path: Path) -> None:
    """Watches end every few minutes; a server that forgot the last event of a quiet kind is then asked to go on from the bookmark."""
    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), replace(PATIENT, watch_s=(1.0, 1.0))) as reader:
            await _until_known(reader, server)
            touch_every_kind(server)
            server.advance(20)
            await _until_known(reader, server)
            server.compact()
            relists, watches = reader.source.relists, len(server.asked(PODS, Verb.WATCH))
            await server.until(lambda: len(server.asked(PODS, Verb.WATCH)) >= watches + 2)
            assert reader.source.relists == relists
            assert not reader.source.problems


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_was_written_before_and_after_a_backup_the_restored_state_is_known_in_the_end(
    seed: int, tmp_path: Path
) -> None:
    """Random histories with a common beginning, written at even and at odd versions: no change is the same in both."""
    rng = random.Random(seed)

    def write(server: ApiServer, most: int, *, odd: bool = False) -> None:
        for _ in range(rng.randrange(most)):
            server.advance(1 + (server.store.resource_version + odd) % 2)
            with contextlib.suppress(KeyError):  # deleted already
                rng.choice(SINGLE)(server)

    async with ApiServer(bookmark_interval_s=0.1) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            for _ in range(3):
                await _until_known(reader, server)
                write(server, 4)
                await _until_known(reader, server)
                checkpoint = server.store.checkpoint()
                write(server, 4)
                await _until_known(reader, server)
                keeps_history = rng.random() < 0.5
                await _restore_while_away(
                    server, checkpoint, lambda restored: write(restored, 6, odd=True), keeps_history=keeps_history
                )
                await until(lambda: reader.agrees_with(server))
