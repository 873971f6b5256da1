"""Load test of the page's streams: many agents with many flows, and clients that follow them for some time.

`python -m loadtest.ui_stream`. This process plays the agents: it serves their flow tables at Unix sockets as agents do, and counts new
connections in them all the time. `netpolq ui` runs as a program and reads them. Clients follow the map and the list of flows; one of them
reads slowly. What is printed is the CPU of `netpolq ui` as a share of one CPU, its memory, and for each kind of client how many changes
came, and how many seconds a change was behind in the middle and at most.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median

import aiohttp
import orjson
import psutil

from aiohttp import web

from loadtest.ui_costs import AGENTS, FLOWS, PEERS, made_up_records
from netpolq.flows.record import FlowRecord
from netpolq.flows.table import FlowTable
from netpolq.supervisor import flows_report
from netpolq.supervisor.flows_report import FLOWS_PATH, Losses
from netpolq.supervisor.status import STATUS_PATH, encode
from netpolq.ui.demonstration.status import made_up_status

CLIENTS = 8
SECONDS = 30
INCREMENTS = 1000
"""New connections of all agents in a second."""

_STEPS = 10
_SETTLE_S = 60.0
_SLOW_S = 3.0
_MAX_EVENT_BYTES = 1 << 26


class PlayedAgent:
    """An agent's answers about flows and status."""

    def __init__(self, node: str, records: list[FlowRecord]) -> None:
        self.node = node
        self._flows = [record.flow for record in records]
        self._table = FlowTable(node, 4 * len(records) + 1, time.time())
        now_s = time.time()
        for flow in self._flows:
            self._table.add(flow, now_s - 1, now_s, 1)

    def count(self, rng: random.Random, connections: int) -> None:
        """Count new connections of flows that there are."""
        now_s = time.time()
        for flow in rng.choices(self._flows, k=connections):
            self._table.add(flow, now_s, now_s, 1)

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """Serve at a Unix socket."""
        application = web.Application()
        application.add_routes([web.get(FLOWS_PATH, self._get_flows), web.get(STATUS_PATH, self._get_status)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.UnixSite(runner, path).start()
            yield
        finally:
            await runner.cleanup()

    async def _get_flows(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in flows_report.answer(self._table, Losses(), tuple(request.query.items()), time.time()):
            await response.write(piece)
        return response

    async def _get_status(self, _request: web.Request) -> web.Response:
        status = made_up_status(
            self.node,
            pods=20,
            packets=self._table.last_number,
            records=self._table.records,
            latency_s=0.01,
            rejected=[],
            objects={},
        )
        return web.Response(body=encode(status))


@dataclass(slots=True)
class Followed:
    """What a client has got. `behind_s`: how long before its arrival each change was made."""

    name: str
    pause_s: float = 0.0
    state_bytes: int = 0
    change_bytes: int = 0
    behind_s: list[float] = field(default_factory=list)

    async def follow(self, session: aiohttp.ClientSession, url: str) -> None:
        """Read events without an end."""
        async with session.get(url) as response:
            while line := await response.content.readline():
                if line.startswith(b"data: "):
                    self._take(line)
                    await asyncio.sleep(self.pause_s)

    def _take(self, line: bytes) -> None:
        event = orjson.loads(line.removeprefix(b"data: "))
        if not self.state_bytes:
            self.state_bytes = len(line)
        elif event:  # no ping
            self.change_bytes += len(line)
            self.behind_s.append(time.time() - datetime.fromisoformat(event["head"]["at"]).timestamp())

    def line(self) -> str:
        """What is printed."""
        if not self.behind_s:
            return f"  {self.name}: no change came"
        return (
            f"  {self.name}: {len(self.behind_s)} changes of {self.change_bytes / len(self.behind_s) / 1000:.0f} kB after a state of "
            f"{self.state_bytes / 1000:.0f} kB; behind by {median(self.behind_s):.2f} s, at most {max(self.behind_s):.2f} s"
        )


async def measure(agents: int, flows: int, clients: int, seconds: float) -> list[Followed]:
    """Measure and print. Returns what the clients have got."""
    rng = random.Random(1)
    records = made_up_records(rng, agents, flows, PEERS)
    played = [PlayedAgent(f"node-{one}", [record for record in records if record.node == f"node-{one}"]) for one in range(agents)]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netpolq-ui-stream-")))
        for agent in played:
            await stack.enter_async_context(agent.serving(folder / f"{agent.node}.sock"))
        process, url = await stack.enter_async_context(_page(folder, played))
        timeout = aiohttp.ClientTimeout(total=None)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, read_bufsize=_MAX_EVENT_BYTES))
        counting = asyncio.create_task(_count(played, rng))
        stack.callback(counting.cancel)
        await _until_all_are_read(session, url, agents)
        followed = [Followed(("map", "flows")[number % 2]) for number in range(clients)]
        followed.append(Followed("map, read slowly", pause_s=_SLOW_S))
        tasks = [asyncio.create_task(one.follow(session, f"{url}api/stream/{one.name.partition(',')[0]}")) for one in followed]
        process.cpu_percent()
        await asyncio.sleep(seconds)
        cpu = process.cpu_percent()
        load = f"{INCREMENTS:,} new connections a second, {len(followed)} clients, {seconds:.0f} s"
        print(f"{agents} agents with {flows:,} flows each, {load}:")
        print(f"  netpolq ui: {cpu:.0f} % of a CPU, {process.memory_info().rss / 1e6:.0f} MB")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in followed:
            print(one.line())
    return followed


@asynccontextmanager
async def _page(folder: Path, played: list[PlayedAgent]) -> AsyncIterator[tuple[psutil.Process, str]]:
    sockets = ",".join(str(folder / f"{agent.node}.sock") for agent in played)
    argv = [sys.executable, "-m", "netpolq", "ui", "--listen=127.0.0.1:0", f"--agent={sockets}"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None or not (line := await process.stdout.readline()):
            raise RuntimeError("netpolq ui has not started; its error is above")
        yield psutil.Process(process.pid), line.decode().strip()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _count(played: list[PlayedAgent], rng: random.Random) -> None:
    while True:
        for agent in played:
            agent.count(rng, max(INCREMENTS // len(played) // _STEPS, 1))
        await asyncio.sleep(1 / _STEPS)


async def _until_all_are_read(session: aiohttp.ClientSession, url: str, agents: int) -> None:
    async with asyncio.timeout(_SETTLE_S):
        while True:
            async with session.get(f"{url}api/nodes") as response:
                nodes = (await response.json())["nodes"]
            if len(nodes) == agents and all(node["reachable"] and node["flows"] for node in nodes):
                return
            await asyncio.sleep(0.5)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=AGENTS, metavar="N", help=f"agents (default {AGENTS})")
    parser.add_argument("--flows", type=int, default=FLOWS, metavar="N", help=f"flows of an agent (default {FLOWS})")
    parser.add_argument(
        "--clients", type=int, default=CLIENTS, metavar="N", help=f"clients that read at once (default {CLIENTS})"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"how long they follow (default {SECONDS})")
    given = parser.parse_args()
    asyncio.run(measure(given.agents, given.flows, given.clients, given.seconds))


if __name__ == "__main__":
    main()
