"""Watches of the test API server follow the protocol: versions, bookmarks, initial events and their end."""

from typing import cast

import pytest

from tests.support.apiserver import PODS, ApiServer, WatchListSupport
from tests.support.apiserver.plain_client import WATCH_LIST, brief, client, namespace, pod, refused, watching


async def test_a_watch_tells_what_happened_after_its_version() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        version = server.put(pod("b"))
        server.put(pod("a", app="web"))
        async with watching(session, resourceVersion=str(version)) as watch:
            server.put(pod("c"))
            last = server.delete(PODS, "x", "b")
            lines = await watch.lines(3)
        assert brief(lines) == ["MODIFIED a", "ADDED c", "DELETED b"]
        assert lines[-1].resource_version == last
        assert (lines[0].body["kind"], lines[0].body["apiVersion"]) == ("Pod", "v1")


@pytest.mark.parametrize("version", [{}, {"resourceVersion": "0"}])
async def test_a_watch_without_version_begins_with_what_is_there(version: dict[str, str]) -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        server.put(pod("a", app="web"))
        async with watching(session, **version) as watch:
            assert brief(await watch.lines(1)) == ["ADDED a"]
            server.put(pod("b"))
            assert brief(await watch.lines(1)) == ["ADDED b"]


async def test_bookmarks_follow_the_version_of_other_kinds() -> None:
    async with ApiServer(bookmark_interval_s=0.05) as server, client(server) as session:
        start = server.put(pod("a"))
        async with watching(session, resourceVersion=str(start), allowWatchBookmarks="true") as watch:
            later = server.put(namespace("x"))
            line = await watch.line()
            while line and line.resource_version < later:
                line = await watch.line()
        assert line is not None
        assert (line.type, line.resource_version) == ("BOOKMARK", later)


async def test_without_being_asked_for_there_are_no_bookmarks() -> None:
    async with ApiServer(bookmark_interval_s=0.01) as server, client(server) as session:
        version = server.put(pod("a"))
        async with watching(session, resourceVersion=str(version), timeoutSeconds="1") as watch:
            assert await watch.rest() == []


async def test_a_watch_ends_in_good_order_when_its_time_is_up_with_a_bookmark() -> None:
    async with ApiServer() as server, client(server) as session:
        start = server.put(pod("a"))
        server.put(namespace("x"))
        query = {"resourceVersion": str(start), "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
        async with watching(session, **query) as watch:
            (line,) = await watch.rest()
        assert (line.type, line.resource_version) == ("BOOKMARK", start + 1)


async def test_a_watch_from_a_forgotten_version_gets_an_error_event() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        server.put(pod("b"))
        server.compact()
        async with watching(session, resourceVersion=str(version)) as watch:
            (line,) = await watch.rest()
        assert (line.type, line.body["code"], line.body["reason"]) == ("ERROR", 410, "Expired")


async def test_a_watch_from_a_forgotten_version_is_refused_where_so_configured() -> None:
    async with ApiServer(compacted_watch_is_http=True) as server, client(server) as session:
        version = server.put(pod("a"))
        server.put(pod("b"))
        server.compact()
        status = await refused(session, watch="true", resourceVersion=str(version))
        assert (status["code"], status["reason"]) == (410, "Expired")


async def test_an_open_watch_outlives_a_compaction() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        async with watching(session, resourceVersion=str(version)) as watch:
            server.put(namespace("x"))
            server.compact()
            server.put(pod("b"))
            assert brief(await watch.lines(1)) == ["ADDED b"]


async def test_a_watch_from_a_version_to_come_hears_nothing_until_then() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        async with watching(session, resourceVersion=str(version + 1)) as watch:
            server.put(pod("b"))
            server.put(pod("c"))
            assert brief(await watch.lines(1)) == ["ADDED c"]


async def test_initial_events_end_with_a_marked_bookmark() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        version = server.put(pod("b"))
        async with watching(session, **WATCH_LIST) as watch:
            lines = await watch.lines(3)
            server.put(pod("c"))
            assert brief(await watch.lines(1)) == ["ADDED c"]
        assert brief(lines) == ["ADDED a", "ADDED b", "BOOKMARK"]
        metadata = cast("dict[str, object]", lines[-1].body["metadata"])
        assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert lines[-1].resource_version == version


async def test_initial_events_of_a_version_to_come_time_out() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        assert (await refused(session, **WATCH_LIST, resourceVersion=str(version + 1)))["code"] == 504


async def test_initial_events_are_refused_where_the_feature_is_off() -> None:
    async with ApiServer(watch_list=WatchListSupport.REFUSED) as server, client(server) as session:
        status = await refused(session, **WATCH_LIST)
        assert (status["code"], status["reason"]) == (422, "Invalid")
        assert "WatchList feature gate" in str(status["message"])


async def test_initial_events_never_end_on_an_old_server() -> None:
    async with ApiServer(watch_list=WatchListSupport.IGNORED) as server, client(server) as session:
        server.put(pod("a"))
        async with watching(session, **WATCH_LIST, timeoutSeconds="1") as watch:
            lines = await watch.rest()
        assert brief(lines) == ["ADDED a", "BOOKMARK"]
        assert "annotations" not in cast("dict[str, object]", lines[-1].body["metadata"])


@pytest.mark.parametrize("left_out", ["sendInitialEvents", "resourceVersionMatch"])
async def test_the_parameters_of_initial_events_go_together(left_out: str) -> None:
    async with ApiServer() as server, client(server) as session:
        query = {name: value for name, value in WATCH_LIST.items() if name != left_out}
        assert (await refused(session, **query))["code"] == 422


async def test_a_watch_that_the_client_leaves_is_over() -> None:
    async with ApiServer() as server, client(server) as session:
        async with watching(session):
            await server.until(lambda: server.open_watches(PODS) == 1)
        await server.until(lambda: server.open_watches() == 0)


async def test_a_compaction_counts_for_kinds_that_it_took_nothing_from() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        server.put(namespace("x"))
        server.compact()
        async with watching(session, resourceVersion=str(version)) as watch:
            (line,) = await watch.rest()
        assert (line.type, line.body["code"]) == ("ERROR", 410)
