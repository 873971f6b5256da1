"""Agents of a cluster, read through the API server: `netpolq flows` and `netpolq status` run in their containers (pods/exec)."""

import asyncio
import time

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import aiohttp
import orjson
import yaml

from netpolq.errors import NetpolqError
from netpolq.explain.known import Known
from netpolq.flow_view.agents import Agent
from netpolq.flow_view.exec_command import AGAIN_S, MAX_AT_ONCE, MAX_FOLLOWED, AgentError, Cluster, found_agents, run_in_agent
from netpolq.flow_view.local import decoded_head
from netpolq.flows import record as flow_record
from netpolq.flows.record import RECORD_START
from netpolq.flows.table import HISTORY_S
from netpolq.logs import one_line
from netpolq.model import NetworkPolicy
from netpolq.object_readers import of_cluster
from netpolq.sources.decode.kinds import CLUSTER_POLICIES, VERSIONS
from netpolq.sources.kubernetes.one_time_list import without_credentials
from netpolq.sources.kubernetes.resources import PLURALS
from netpolq.sources.kubernetes.watch import StatusError
from netpolq.supervisor import status as status_document
from netpolq.supervisor.flows_report import FlowsHead
from netpolq.ui.agents.source import SourceName
from netpolq.ui.policies import Policy
from netpolq.ui.state.known_agents import KnownAgents

STATUS_PERIOD_S = 15.0
"""Each reading is a process on a node."""

_MAX_STATUS_BYTES = 1 << 24


class ExecAgents:
    """The agents of a cluster."""

    name: SourceName = "cluster"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connection = cluster.connection()
        self._limit = asyncio.Semaphore(MAX_AT_ONCE)
        self._following: dict[Agent, asyncio.Task[None]] = {}
        self._heads: dict[str, FlowsHead] = {}
        self.where = "the agents of a cluster"

    async def open(self) -> None:
        """See `Source`. The connection is closed at the end of `run`."""
        await self._connection.open()
        self.where = f"the agents of {without_credentials(self._connection.address)}"

    async def run(self, agents: KnownAgents) -> None:
        """See `Source`. Agents are looked for every ten seconds."""
        try:
            while True:
                try:
                    found = await found_agents(self._connection, self._cluster)
                except NetpolqError as error:
                    agents.problem = str(error)
                else:
                    agents.problem = ""
                    self._take(found, agents)
                await asyncio.sleep(AGAIN_S)
        finally:
            await self._stop(list(self._following.values()))
            await self._connection.close()

    def _take(self, found: Sequence[Agent], agents: KnownAgents) -> None:
        """Follow agents that are new, and forget those that are gone."""
        nodes = {agent.node: agent for agent in found}
        agents.gone([node for node in agents.nodes if node not in nodes])
        for agent, task in list(self._following.items()):
            if nodes.get(agent.node) != agent:
                task.cancel()
                del self._following[agent]
            elif task.done():
                task.result()  # an error of the program ends it
        for number, agent in enumerate(found):
            agents.found(agent.node, agent.pod)
            if agent.problem:
                agents.failed(agent.node, agent.problem, time.time())
            elif number >= MAX_FOLLOWED:
                agents.failed(agent.node, f"more than {MAX_FOLLOWED} agents are not followed; name some with --node", time.time())
            elif agent not in self._following:
                self._following[agent] = asyncio.create_task(self._read(agent, agents))

    async def _read(self, agent: Agent, agents: KnownAgents) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(agent, agents))
            group.create_task(self._read_status(agent, agents))

    async def _follow(self, agent: Agent, agents: KnownAgents) -> None:
        run_dir = [] if self._cluster.run_dir is None else [f"--run-dir={self._cluster.run_dir}"]
        argv = ["netpolq", "flows", "--output=raw", "--follow", f"--since={HISTORY_S}s", *run_dir]
        while True:
            await self._limit.acquire()
            lines = _FlowLines(agent.node, agents, self._heads, self._limit)
            try:
                await run_in_agent(self._connection, self._cluster, agent, argv, lines)
                agents.failed(agent.node, "the command in its container has ended; it is started again", time.time())
            except (AgentError, BrokenPipeError) as error:
                agents.failed(agent.node, str(error) or "the connection ended", time.time())
            finally:
                lines.release()
            await asyncio.sleep(AGAIN_S)

    async def _read_status(self, agent: Agent, agents: KnownAgents) -> None:
        run_dir = [] if self._cluster.run_dir is None else [f"--run-dir={self._cluster.run_dir}"]
        while True:
            lines = _AllLines()
            problem = ""
            async with self._limit:
                try:
                    await run_in_agent(
                        self._connection, self._cluster, agent, ["netpolq", "status", "--output=json", *run_dir], lines
                    )
                except (
                    AgentError,
                    BrokenPipeError,
                ) as error:  # also the exit code of an agent that is not ready, after its document
                    problem = str(error)
            try:
                agents.status(agent.node, status_document.decode(b"\n".join(lines.lines)), time.time())
            except (ValueError, TypeError) as error:
                agents.status_failed(agent.node, problem or f"its status cannot be read: {one_line(str(error))[:200]}")
            await asyncio.sleep(STATUS_PERIOD_S)

    @staticmethod
    async def _stop(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def objects(self, ends: Sequence[str] | None) -> Known:
        """The objects of the API server, listed once."""
        return await asyncio.to_thread(of_cluster, self._cluster.kubeconfig, self._cluster.context, ends)

    async def manifest(self, policy: Policy) -> str | None:
        """The object of the API server, without its status and managed fields."""
        for path in _paths(policy):
            try:
                body = await self._connection.get(path, {}, timeout_s=self._cluster.timeout_s)
            except StatusError as error:
                if error.code == 404:
                    continue
                raise NetpolqError(f"the API server answers {one_line(str(error))} for {path}") from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise NetpolqError(f"the API server cannot be reached: {one_line(str(error)) or type(error).__name__}") from error
            found = orjson.loads(body)
            found.pop("status", None)
            with suppress(KeyError, AttributeError):
                found["metadata"].pop("managedFields", None)
            return yaml.safe_dump(found, sort_keys=False, allow_unicode=False)
        return None


def _paths(policy: Policy) -> list[str]:
    key = policy.key
    if isinstance(policy, NetworkPolicy):
        return [f"/apis/{VERSIONS['NetworkPolicy'][0]}/namespaces/{key.namespace}/networkpolicies/{key.name}"]
    return [f"/apis/{version}/{PLURALS[CLUSTER_POLICIES[key.kind]]}/{key.name}" for version in VERSIONS[key.kind]]


class _FlowLines:
    """Takes the answer of an agent: the history, then increments. The limit is held until its first line.

    A command that is started again tells the whole history again. If it is of the same supervisor, what that has told is forgotten first.
    """

    def __init__(self, node: str, agents: KnownAgents, heads: dict[str, FlowsHead], limit: asyncio.Semaphore) -> None:
        self._node = node
        self._agents = agents
        self._heads = heads
        self._limit: asyncio.Semaphore | None = limit
        self.has_any = False

    def line(self, line: bytes) -> None:
        """Take a line. Raises `NetpolqError` if it is neither a head nor a record."""
        self.release()
        if line.startswith(RECORD_START):
            try:
                found = flow_record.decode(line)
            except ValueError as error:
                raise NetpolqError(f"its answer cannot be read: {one_line(str(error))[:200]}") from error
            self._agents.flow(found if found.node == self._node else replace(found, node=self._node), time.time())
            return
        head = decoded_head(line)
        before = self._heads.get(self._node)
        if not self.has_any and before is not None and before.started_s == head.started_s:
            self._agents.history.forget_node(self._node)
        self.has_any = True
        self._heads[self._node] = head
        self._agents.head(self._node, head)

    def remark(self, text: str) -> None:
        """What the command tells its user is in the heads, too."""

    def release(self) -> None:
        """Let another agent be connected to."""
        if self._limit is not None:
            self._limit.release()
            self._limit = None


class _AllLines:
    """Keeps all lines of a document."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._size = 0

    @property
    def has_any(self) -> bool:
        return False

    def line(self, line: bytes) -> None:
        """Keep a line. Raises `NetpolqError` if there are too many."""
        self._size += len(line) + 1
        if self._size > _MAX_STATUS_BYTES:
            raise NetpolqError(f"its status has more than {_MAX_STATUS_BYTES} bytes")
        self.lines.append(line)

    def remark(self, text: str) -> None:
        """The reason of a failure has it, too."""
