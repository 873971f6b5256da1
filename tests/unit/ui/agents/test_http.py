"""An agent over HTTP, on the socket of a server that answers as agents do, and as they should not."""

import asyncio
import time

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

import aiohttp
import orjson
import pytest

from aiohttp import web

from netpolq.errors import NetpolqError
from netpolq.flows.record import FlowRecord, encode
from netpolq.flows.table import FlowTable
from netpolq.supervisor import status as status_document
from netpolq.supervisor.flows_report import FlowsHead, Losses, answer
from netpolq.ui.agents import http as http_module
from netpolq.ui.agents.http import Endpoint, HttpAgent
from netpolq.ui.demonstration.status import made_up_status
from netpolq.ui.state.known_agents import KnownAgents
from tests.support.flow_records import ACCEPTED_FLOW, WEB, record
from tests.support.polling import until


class Supervisor:
    """The paths of a status socket. `replacements`: bodies in place of the true answers, by path; None: the connection is cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = FlowTable("node-1", 1000, time.time())
        self.replacements: dict[str, bytes | None] = {}
        self.status = 200
        self.queries: list[dict[str, str]] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/{path}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self.path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.path)).start()

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def count(self, connections: int, pod: int = 0) -> None:
        now_s = time.time()
        self.table.add(ACCEPTED_FLOW._replace(source=WEB._replace(pod=f"web-{pod}")), now_s, now_s, connections)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        if request.path in self.replacements:
            body = self.replacements[request.path]
            if body is None:
                assert request.transport is not None
                request.transport.abort()
            return web.Response(body=body or b"", status=self.status)
        if request.path == "/status":
            made_up = made_up_status("node-1", pods=3, packets=5, records=1, latency_s=0.1, rejected=[], objects={})
            return web.Response(body=status_document.encode(made_up))
        pieces = [piece async for piece in answer(self.table, Losses(), tuple(request.query.items()), time.time())]
        return web.Response(body=b"".join(pieces))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "FLOWS_PERIOD_S", 0.01)
    monkeypatch.setattr(http_module, "STATUS_PERIOD_S", 0.01)
    monkeypatch.setattr(http_module, "MAX_PAUSE_S", 0.02)


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "status.sock")
    await supervisor.start()
    yield supervisor
    await supervisor.stop()


@asynccontextmanager
async def reading(path: Path, node: str = "") -> AsyncIterator[KnownAgents]:
    agents = KnownAgents(time.time())
    agent = HttpAgent(Endpoint(name="the agent", url="http://localhost", node=node), aiohttp.UnixConnector(str(path)))
    task = asyncio.create_task(agent.run(agents))
    try:
        yield agents
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def total(agents: KnownAgents) -> int:
    return sum(link.counts.since(0) for link in agents.history.links.values())


async def test_the_history_comes_first_and_then_what_is_counted(supervisor: Supervisor) -> None:
    supervisor.count(5)
    async with reading(supervisor.path) as agents:
        await until(lambda: total(agents) == 5)
        supervisor.count(2, pod=1)
        await until(lambda: total(agents) == 7)
        await until(lambda: agents.nodes["node-1"].status is not None)
        assert list(agents.nodes) == ["node-1"]
    periods = [next(iter(query)) for query in supervisor.queries if query]
    assert periods[0] == "since"
    assert set(periods[1:]) == {"after"}


async def test_a_new_supervisor_tells_its_own_history(supervisor: Supervisor) -> None:
    supervisor.count(5)
    async with reading(supervisor.path) as agents:
        await until(lambda: total(agents) == 5)
        for _ in range(4):  # numbers of increments that the reader has not asked for yet
            supervisor.count(0)
        supervisor.table = FlowTable("node-1", 1000, time.time() + 1)
        for number in range(20):
            supervisor.count(1, number)
        await until(lambda: total(agents) == 25)


async def test_a_history_that_breaks_off_is_not_counted_twice(supervisor: Supervisor) -> None:
    lines = [orjson.dumps(asdict(head(supervisor))), *(encode(now(number)) for number in (1, 2, 3)), b'{"window_start": 1}']
    supervisor.replacements["/flows"] = b"\n".join(lines)
    for number in (1, 2, 3):
        supervisor.count(number, number)
    async with reading(supervisor.path) as agents:
        await until(lambda: total(agents) == 6 and "cannot be read" in agents.nodes["node-1"].problem)
        del supervisor.replacements["/flows"]
        await until(lambda: agents.nodes["node-1"].is_reachable and agents.nodes["node-1"].problem == "")
        await until(lambda: total(agents) == 6)


def head(supervisor: Supervisor, **fields: object) -> FlowsHead:
    found = FlowsHead(
        node="node-1",
        started_s=supervisor.table.started_s,
        next=3,
        missed=0,
        records=3,
        max_records=9,
        unrecorded=0,
        lost=0,
        dropped_early=0,
    )
    return replace(found, **fields)  # type: ignore[arg-type]  # fields of a head


def now(number: int) -> FlowRecord:
    return replace(record(number), first_seen_s=time.time(), last_seen_s=time.time())


async def test_an_agent_that_is_gone_is_missing_until_it_returns(supervisor: Supervisor) -> None:
    async with reading(supervisor.path) as agents:
        await until(lambda: agents.agents_fields()["missing"] == [] and agents.nodes)
        await supervisor.stop()
        await until(lambda: agents.agents_fields()["missing"] != [])
        assert "the agent cannot be reached" in agents.nodes["node-1"].problem
        await supervisor.start()
        await until(lambda: agents.agents_fields()["missing"] == [])


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("/flows", b"\xff\xfe", "cannot be read"),
        ("/flows", b"", "cannot be read"),
        ("/flows", b"[]", "cannot be read"),
        ("/flows", b"{" * 1000, "cannot be read"),
        ("/flows", None, "cannot be reached"),
        ("/status", b"\xff", "cannot be read"),
        ("/status", b"[1]", "cannot be read"),
        ("/status", b"null", "cannot be read"),
        ("/status", None, "cannot be reached"),
    ],
)
async def test_an_answer_of_any_bytes_is_a_problem_of_that_agent(
    supervisor: Supervisor, path: str, body: bytes | None, problem: str
) -> None:
    supervisor.replacements[path] = body

    def is_told(agents: KnownAgents) -> Callable[[], bool]:
        return lambda: any(problem in state.problem + state.status_problem for state in agents.nodes.values())

    async with reading(supervisor.path) as agents:
        await until(is_told(agents))
        supervisor.replacements.clear()
        await until(lambda: all(not state.problem + state.status_problem for state in agents.nodes.values()))


@pytest.mark.parametrize(
    ("status", "problem"), [(403, "refuses: why"), (404, "does not record flows"), (500, "answers 500: why")]
)
async def test_a_refusal_is_told(supervisor: Supervisor, status: int, problem: str) -> None:
    supervisor.replacements["/flows"], supervisor.status = b"why\n", status
    async with reading(supervisor.path) as agents:
        await until(lambda: any(problem in state.problem for state in agents.nodes.values()))


async def test_an_agent_cannot_report_flows_of_another_node(supervisor: Supervisor) -> None:
    """A record names a node, but the agent's own one counts."""
    other = replace(now(3), node="node-2")
    supervisor.replacements["/flows"] = b"\n".join([orjson.dumps(asdict(head(supervisor))), encode(other)])
    async with reading(supervisor.path, node="node-9") as agents:
        await until(lambda: total(agents) > 0)
        assert {kept.node for kept in agents.history.flows.values()} == {"node-9"}
        assert list(agents.nodes) == ["node-9"]


def test_a_socket_of_another_user_is_told_as_such() -> None:
    """Root may open every socket, so the error is made here."""
    assert http_module._described(PermissionError(13, "Permission denied")).endswith("run as root")


async def test_objects_that_cannot_be_read_are_an_error(supervisor: Supervisor) -> None:
    agent = HttpAgent(Endpoint(name="the agent", url="http://localhost"), aiohttp.UnixConnector(str(supervisor.path)))
    for body in (b"", b"\xff", b"{}\n"):
        supervisor.replacements["/objects"] = body
        with pytest.raises(NetpolqError, match="cannot be read"):
            await agent.objects(None)
    with pytest.raises(NetpolqError, match="an agent knows no Services"):
        await agent.objects(["service/shop/web", "shop/db-0"])
    await agent._session.close()
