"""One agent that is read over HTTP: the paths of its status socket, through any connector of aiohttp."""

import asyncio
import time

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

import aiohttp

from netpolq.errors import NetpolqError
from netpolq.explain.known import Known
from netpolq.flows import record as flow_record
from netpolq.flows.record import FlowRecord
from netpolq.flows.table import HISTORY_S
from netpolq.logs import one_line
from netpolq.object_readers import check_ends_of_agent, known_of_agent
from netpolq.supervisor import objects_report
from netpolq.supervisor import status as status_document
from netpolq.supervisor.flows_report import FLOWS_PATH, FlowsHead, decode_head
from netpolq.supervisor.objects_report import OBJECTS_PATH
from netpolq.supervisor.status import STATUS_PATH
from netpolq.supervisor.status_client import MAX_LINE_BYTES
from netpolq.ui.agents.source import FLOWS_PERIOD_S, MAX_PAUSE_S, STATUS_PERIOD_S
from netpolq.ui.state.known_agents import KnownAgents

MAX_DOCUMENT_BYTES = 1 << 28
"""Of objects. Some 100,000 pods have 40 MB."""

_MAX_STATUS_BYTES = 1 << 24
_MAX_ERROR_BYTES = 200
_PORTION_BYTES = 1 << 16
_RECORDS_AT_ONCE = 200
_MAX_INCREMENT_BYTES = 1 << 26
"""An agent keeps 20,000 increments of some 500 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How an agent is reached. `name`: in errors and until the name of its node is known. `url`: without a path. `pod`: or empty."""

    name: str
    url: str
    node: str = ""
    pod: str = ""
    timeout_s: float = 5.0


class HttpAgent:
    """Reads one agent. `node`: of the agent, or the endpoint's name until it is known."""

    def __init__(self, endpoint: Endpoint, connector: aiohttp.BaseConnector) -> None:
        self._endpoint = endpoint
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=endpoint.timeout_s, sock_read=endpoint.timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=_PORTION_BYTES)
        self.node = endpoint.node or endpoint.name
        self._head: FlowsHead | None = None
        self._counted_from_s: float | None = None

    @property
    def title(self) -> str:
        """What is read, in words."""
        return self._endpoint.name if self.node == self._endpoint.name else f"the agent on {self.node}"

    async def run(self, agents: KnownAgents) -> None:
        """Tell flows and status without an end. A task group's exception is an error of the program."""
        agents.found(self.node, self._endpoint.pod)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(agents))
                group.create_task(self._read_status(agents))
        finally:
            await self._session.close()

    async def objects(self, ends: Sequence[str] | None) -> Known:
        """Return the objects of the agent; see `netpolq.object_readers.of_agent`. Raises `NetpolqError`."""
        check_ends_of_agent(ends or ())
        body = await self._body(OBJECTS_PATH, MAX_DOCUMENT_BYTES)

        def decoded() -> Known:
            try:
                return known_of_agent(objects_report.decode(body))
            except ValueError as error:
                raise self._unreadable(error) from error

        return await asyncio.to_thread(decoded)

    # --- flows ----------------------------------------------------------------------------------------------------------------------

    async def _follow(self, agents: KnownAgents) -> None:
        pause_s = FLOWS_PERIOD_S
        while True:
            try:
                await self._more(agents)
                pause_s = FLOWS_PERIOD_S
            except NetpolqError as error:
                agents.failed(self.node, str(error), time.time())
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _more(self, agents: KnownAgents) -> None:
        """Tell the history at first, and after a restart of the supervisor; otherwise what was counted after the answer before."""
        if self._head is not None:
            head, records = await self._increments(self._head.next)
            if head.started_s == self._head.started_s:
                self._take_head(agents, head)
                for found in records:
                    agents.flow(self._of_node(found), time.time())
                return
            self._head = None
        await self._history(agents)

    async def _increments(self, after: int) -> tuple[FlowsHead, list[FlowRecord]]:
        """All of them, or none: what is read in part would be asked for again."""
        body = await self._body(f"{FLOWS_PATH}?{urlencode({'after': after})}", _MAX_INCREMENT_BYTES)
        first, *lines = body.splitlines() or [b""]
        try:
            return decode_head(first), [record async for record in _decoded(lines)]
        except ValueError as error:
            raise self._unreadable(error) from error

    async def _history(self, agents: KnownAgents) -> None:
        lines = self._lines(f"{FLOWS_PATH}?{urlencode({'since': HISTORY_S})}")
        try:
            head = decode_head(await anext(lines, b""))
            self._learn_node(agents, head)
            if self._counted_from_s == head.started_s:  # an earlier attempt has read a part
                agents.history.forget_node(self.node)
            self._counted_from_s = head.started_s
            count = 0
            async for line in lines:
                agents.flow(self._of_node(flow_record.decode(line)), time.time())
                count += 1
                if not count % _RECORDS_AT_ONCE:
                    await asyncio.sleep(0)  # other tasks have their turn
            self._take_head(agents, head)
        except ValueError as error:
            raise self._unreadable(error) from error
        finally:
            await lines.aclose()

    def _learn_node(self, agents: KnownAgents, head: FlowsHead) -> None:
        node = self._endpoint.node or one_line(head.node)[:253] or self._endpoint.name
        if node != self.node:
            agents.renamed(self.node, node, self._endpoint.pod)
            self.node = node

    def _take_head(self, agents: KnownAgents, head: FlowsHead) -> None:
        """Take the head of an answer that was read whole."""
        self._learn_node(agents, head)
        agents.head(self.node, head)
        self._head = head

    def _of_node(self, found: FlowRecord) -> FlowRecord:
        return found if found.node == self.node else replace(found, node=self.node)

    # --- status ---------------------------------------------------------------------------------------------------------------------

    async def _read_status(self, agents: KnownAgents) -> None:
        while True:
            try:
                body = await self._body(STATUS_PATH, _MAX_STATUS_BYTES)
                agents.status(self.node, status_document.decode(body), time.time())
            except NetpolqError as error:
                agents.status_failed(self.node, str(error))
            except (ValueError, TypeError) as error:
                agents.status_failed(self.node, str(self._unreadable(error)))
            await asyncio.sleep(STATUS_PERIOD_S)

    # --- HTTP -----------------------------------------------------------------------------------------------------------------------

    async def _body(self, path: str, most: int) -> bytes:
        body = bytearray()
        async for portion in self._portions(path):
            body += portion
            if len(body) > most:
                raise NetpolqError(f"the answer of {self._endpoint.name} to {path} has more than {most} bytes")
        return bytes(body)

    async def _lines(self, path: str) -> AsyncGenerator[bytes]:
        rest = b""
        async for portion in self._portions(path):
            *whole, rest = (rest + portion).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise NetpolqError(f"the answer of {self._endpoint.name} has a line of more than {MAX_LINE_BYTES} bytes")
            for line in whole:
                yield line
        if rest:
            yield rest

    async def _portions(self, path: str) -> AsyncIterator[bytes]:
        name, timeout_s = self._endpoint.name, self._endpoint.timeout_s
        try:
            async with self._session.get(f"{self._endpoint.url}{path}", allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refusal(response, path)
                async for portion in response.content.iter_chunked(_PORTION_BYTES):
                    yield portion
        except TimeoutError as error:
            raise NetpolqError(f"{name} does not answer within {timeout_s:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NetpolqError(f"{name} cannot be reached: {_described(error)}") from error

    async def _refusal(self, response: aiohttp.ClientResponse, path: str) -> NetpolqError:
        name = self._endpoint.name
        text = one_line((await response.content.read(_MAX_ERROR_BYTES)).decode(errors="replace").strip())
        if response.status == 403:
            return NetpolqError(f"{name} refuses: {text or 'it is for root and the user of the agent'}")
        if response.status == 404 and path.startswith(FLOWS_PATH):
            return NetpolqError(f"{name} does not record flows: it runs with --flows off, or is of an older version")
        return NetpolqError(f"{name} answers {response.status}: {text}")

    def _unreadable(self, error: Exception) -> NetpolqError:
        text = one_line(str(error))[:_MAX_ERROR_BYTES]
        return NetpolqError(f"the answer of {self._endpoint.name} cannot be read: {text}; is it of another version?")


async def _decoded(lines: Iterable[bytes]) -> AsyncIterator[FlowRecord]:
    for number, line in enumerate(lines, 1):
        yield flow_record.decode(line)
        if not number % _RECORDS_AT_ONCE:
            await asyncio.sleep(0)


def _described(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    if isinstance(cause, PermissionError):
        return "it is for root and the user of the agent; run as root"
    return getattr(cause, "strerror", None) or one_line(str(error)) or type(error).__name__
