"""Each fault of the test API server happens as configured, and only as often as configured."""

import asyncio
import contextlib

from http import HTTPStatus

import aiohttp
import pytest

from tests.support.apiserver import (
    NAMESPACES,
    PODS,
    Answer,
    ApiServer,
    CloseAbruptly,
    CutBody,
    CutLine,
    EndStream,
    GoSilent,
    NeverAnswer,
    Replay,
    SendError,
    SendLine,
    Slow,
    Verb,
)
from tests.support.apiserver.plain_client import (
    WATCH_LIST,
    Line,
    Watch,
    brief,
    client,
    listed,
    names,
    namespace,
    parsed,
    pod,
    refused,
    watching,
)

_BREATH_S = 0.3
"""Long enough for what is wrong to show: where nothing may come, nothing has come for so long."""

BROKEN = (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientOSError)


async def _heard_within(watch: Watch, seconds: float) -> list[str]:
    """Every line of that time. Fails if the stream ends in it."""
    lines: list[Line] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while raw := await watch.response.content.readline():
                lines.append(parsed(raw))
            pytest.fail("the stream has ended")
    return brief(lines)


async def test_a_fault_affects_its_number_of_requests_of_its_kind_and_verb() -> None:
    async with ApiServer() as server, client(server) as session:
        server.inject(Answer(code=500, reason="InternalError", resource=PODS, verb=Verb.LIST, times=2))
        await listed(session, NAMESPACES)
        async with watching(session):
            pass
        assert [(await refused(session))["code"] for _ in range(2)] == [500, 500]
        await listed(session)
        assert server.faults == []


async def test_a_fault_without_number_stays_until_it_is_cleared() -> None:
    async with ApiServer() as server, client(server) as session:
        server.inject(Answer(code=503, reason="ServiceUnavailable", times=None))
        assert [(await refused(session))["code"] for _ in range(5)] == [503] * 5
        server.clear()
        await listed(session)


async def test_too_many_requests_say_when_to_come_back() -> None:
    async with ApiServer() as server, client(server) as session:
        server.inject(Answer(code=HTTPStatus.TOO_MANY_REQUESTS, message="Too many requests", retry_after_s=7))
        async with session.get(PODS.path) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
            assert response.content_type == "text/plain"


async def test_a_watch_can_be_answered_with_410() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        server.inject(Answer(code=410, reason="Expired", verb=Verb.WATCH))
        assert (await refused(session, watch="true", resourceVersion=str(version)))["reason"] == "Expired"


@pytest.mark.parametrize("tls", [False, True])
async def test_a_connection_can_be_closed_instead_of_an_answer(tls: bool) -> None:
    async with ApiServer(tls=tls) as server, client(server) as session:
        # Two, because the client itself tries once more when a connection that it has kept is closed.
        server.inject(CloseAbruptly(times=2))
        with pytest.raises(BROKEN):
            await session.get(PODS.path)
        server.clear()
        await listed(session)


async def test_a_request_can_remain_without_answer() -> None:
    async with ApiServer() as server, client(server) as session:
        server.inject(NeverAnswer())
        with pytest.raises(TimeoutError):
            await session.get(PODS.path, timeout=aiohttp.ClientTimeout(total=_BREATH_S))
        assert len(server.requests) == 1
        await listed(session)


async def test_a_slow_list_takes_its_time_and_is_whole() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a", note="n" * 1000))
        server.inject(Slow(bytes_per_s=2000))
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert names(await listed(session)) == ["a"]
        assert loop.time() - start > _BREATH_S


async def test_a_list_can_break_off() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a", note="n" * 1000))
        server.inject(CutBody(after_bytes=500))
        async with session.get(PODS.path) as response:
            assert len(await response.content.readexactly(500)) == 500
            with pytest.raises(BROKEN):
                await response.content.read()


async def test_an_open_watch_can_fall_silent_without_being_closed() -> None:
    async with ApiServer(bookmark_interval_s=0.01) as server, client(server) as session:
        query = {"timeoutSeconds": "1", "allowWatchBookmarks": "true", "resourceVersion": str(server.put(pod("a")))}
        async with watching(session, **query) as watch:
            await server.until(lambda: server.open_watches() == 1)
            assert server.strike(GoSilent(resource=PODS)) == 1
            server.put(pod("b"))
            # Longer than the time that it was asked for: not even that ends it.
            assert set(await _heard_within(watch, 1 + _BREATH_S)) <= {"BOOKMARK"}
            assert server.open_watches() == 1


async def test_a_strike_leaves_other_kinds_alone() -> None:
    async with ApiServer() as server, client(server) as session, watching(session, NAMESPACES) as watch:
        await server.until(lambda: server.open_watches() == 1)
        assert server.strike(GoSilent(resource=PODS)) == 0
        server.put(namespace("x"))
        assert brief(await watch.lines(1)) == ["ADDED x"]


@pytest.mark.parametrize("cleanly", [False, True])
async def test_a_line_can_be_cut(cleanly: bool) -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        async with watching(session) as watch:
            await watch.lines(1)
            server.strike(CutLine(cleanly=cleanly))
            server.put(pod("b"))
            with contextlib.nullcontext() if cleanly else pytest.raises(BROKEN):
                half = await watch.response.content.readline()
                assert half.startswith(b'{"type":"ADDED"')
                assert not half.endswith(b"\n")
                assert await watch.response.content.read() == b""


async def test_initial_events_can_break_off_before_their_end() -> None:
    async with ApiServer() as server, client(server) as session:
        for name in "abc":
            server.put(pod(name))
        server.inject(EndStream(after_lines=2))
        async with watching(session, **WATCH_LIST) as watch:
            assert brief(await watch.rest()) == ["ADDED a", "ADDED b"]


async def test_a_line_of_rubbish_does_not_end_the_stream() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        async with watching(session) as watch:
            await watch.lines(1)
            server.strike(SendLine())
            assert await watch.response.content.readline() == SendLine().line
            server.put(pod("b"))
            assert brief(await watch.lines(1)) == ["ADDED b"]


async def test_an_error_event_ends_the_stream() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        server.inject(SendError(code=500, reason="InternalError", after_lines=1))
        async with watching(session) as watch:
            first, error = await watch.rest()
        assert (first.type, error.type, error.body["code"]) == ("ADDED", "ERROR", 500)


@pytest.mark.parametrize(("backwards", "replayed"), [(False, ["MODIFIED a", "DELETED a"]), (True, ["DELETED a", "MODIFIED a"])])
async def test_events_can_be_replayed_with_their_old_versions(backwards: bool, replayed: list[str]) -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(namespace("x"))
        async with watching(session, resourceVersion=str(version)) as watch:
            server.put(pod("a"))
            server.put(pod("a", app="web"))
            server.delete(PODS, "x", "a")
            lines = await watch.lines(3)
            server.strike(Replay(last=2, backwards=backwards))
            server.put(pod("b"))
            again = await watch.lines(3)
        assert brief(again) == [*replayed, "ADDED b"]
        assert {line.resource_version for line in again[:2]} == {line.resource_version for line in lines[1:]}


async def test_a_restart_cuts_all_watches_and_forgets_history_on_the_same_port() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        server.put(pod("b"))
        async with watching(session, resourceVersion=str(version)) as watch:
            await watch.lines(1)
            await server.restart()
            with pytest.raises(BROKEN):
                await watch.response.content.readline()
        assert names(await listed(session)) == ["a", "b"]
        async with watching(session, resourceVersion=str(version)) as watch:
            (line,) = await watch.rest()
        assert (line.type, line.body["code"]) == ("ERROR", 410)


async def test_a_restart_can_keep_history() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        server.put(pod("b"))
        await server.restart(compact=False)
        async with watching(session, resourceVersion=str(version)) as watch:
            assert brief(await watch.lines(1)) == ["ADDED b"]


async def test_connections_can_be_refused_for_a_while() -> None:
    async with ApiServer() as server:
        await server.refuse_connections()
        async with client(server) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as refusal:
                await session.get(PODS.path)
            assert isinstance(refusal.value.os_error, ConnectionRefusedError)
            await server.accept_connections()
            await listed(session)


async def test_connections_can_be_left_waiting() -> None:
    async with ApiServer() as server, client(server) as session:
        await server.leave_connections_waiting()
        with pytest.raises(TimeoutError):
            await session.get(PODS.path, timeout=aiohttp.ClientTimeout(total=_BREATH_S))
        assert server.requests == []
        await server.accept_connections()
        await listed(session)


async def test_a_restored_state_goes_back_in_time() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        backup = server.store.checkpoint()
        server.delete(PODS, "x", "a")
        ahead = server.put(pod("b"))
        await server.restore(backup)
        listing = await listed(session)
        assert (names(listing), listing["metadata"]["resourceVersion"]) == (["a"], str(backup.resource_version))
        assert (await refused(session, resourceVersion=str(ahead)))["code"] == 504
        # The same number now stands for another change.
        server.advance(1)
        assert server.put(pod("c")) == ahead
        async with watching(session, resourceVersion=str(backup.resource_version)) as watch:
            assert brief(await watch.lines(1)) == ["ADDED c"]
