"""Flows of all agents of a cluster: `netpolq flows` runs in each agent's container (`netpolq.flow_view.exec_command`)."""

import asyncio
import os
import sys
import time

from collections.abc import Callable
from contextlib import suppress

from netpolq.errors import ExitCode, NetpolqError
from netpolq.flow_view.agents import Agent
from netpolq.flow_view.exec_command import AGAIN_S, MAX_AT_ONCE, MAX_FOLLOWED, AgentError, Cluster, found_agents, run_in_agent
from netpolq.flow_view.local import Question, decoded_head, pass_on
from netpolq.flow_view.outputs import Output
from netpolq.flow_view.spool import Spool, window_start
from netpolq.flows.record import RECORD_START
from netpolq.sources.kubernetes.connection import Connection
from netpolq.supervisor.flows_report import FlowsHead

FLAGS = {"source": "from", "destination": "to"}
"""The flags of fields of `FlowFilter` that have another name."""

_STEP_S = 1.0
_MAX_NAMED = 5


def command(cluster: Cluster, question: Question) -> list[str]:
    """The command that runs in a container."""
    filters = question.wanted.to_query()
    flags = ["--denied"] if filters.pop("denied", None) else []
    flags += [f"--{FLAGS.get(name, name)}={value}" for name, value in filters.items()]
    flags += ["--follow"] if question.follow else []
    flags += [f"--since={question.since_s}s"] if question.since_s is not None else []
    flags += [f"--run-dir={cluster.run_dir}"] if cluster.run_dir is not None else []
    return ["netpolq", "flows", "--output=raw", *flags]


async def show(cluster: Cluster, question: Question, output: Output) -> ExitCode:
    """Pass the flows of all agents to an output, by time. Raises `NetpolqError` if no agent could be read."""
    connection = cluster.connection()
    await connection.open()
    try:
        agents = await found_agents(connection, cluster)
        failures: dict[Agent, str] = {}
        answers: dict[Agent, _Into] = {}
        limit, progress = asyncio.Semaphore(MAX_AT_ONCE), _Progress(len(agents))
        with Spool() as spool:

            async def read(agent: Agent) -> None:
                async with limit:
                    into = answers[agent] = _Into(output, spool, agent.node)
                    try:
                        await run_in_agent(connection, cluster, agent, command(cluster, question), into)
                    except AgentError as error:
                        failures[agent] = str(error)
                    spool.flush(agent.node)
                    progress.step()

            async with asyncio.TaskGroup() as group:
                for agent in agents:
                    group.create_task(read(agent))
            progress.end()
            for agent in agents:
                for head, line in answers[agent].heads:
                    output.head(agent.node, head, line)
            for line in spool.merged():
                pass_on(line, output)
    finally:
        await connection.close()
    return _told(failures, len(agents), output)


async def follow(cluster: Cluster, question: Question, output: Output) -> None:
    """Pass the flows of all agents to an output as they come, without an end. Raises `NetpolqError` if none can be read at the start.

    Agents that come later, or again, are followed from then on.
    """
    connection = cluster.connection()
    await connection.open()
    following = _Following(connection, cluster, question, output)
    try:
        await following.run()
    finally:
        await following.stop()
        await connection.close()


class _Following:
    """The connections to all agents that are followed."""

    def __init__(self, connection: Connection, cluster: Cluster, question: Question, output: Output) -> None:
        self._connection = connection
        self._cluster = cluster
        self._question = question
        self._output = output
        self._limit = asyncio.Semaphore(MAX_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._problems: dict[str, str] = {}
        self._is_settled: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        agents = await found_agents(self._connection, self._cluster)
        if len(agents) > MAX_FOLLOWED:
            raise NetpolqError(f"{len(agents)} agents are too many to follow, at most {MAX_FOLLOWED}; name some with --node")
        self._start(agents)
        while not all(event.is_set() for event in self._is_settled.values()):
            self._output.tick()
            with suppress(TimeoutError):
                async with asyncio.timeout(_STEP_S):
                    for event in self._is_settled.values():
                        await event.wait()
        if len(self._problems) == len(agents):
            _told({agent: self._problems[agent.node] for agent in agents}, len(agents), self._output)
        while True:
            until_s = time.monotonic() + AGAIN_S
            while time.monotonic() < until_s:
                self._output.tick()
                await asyncio.sleep(_STEP_S)
            try:
                agents = await found_agents(self._connection, self._cluster)
            except NetpolqError as error:
                self._note("", str(error))
                continue
            self._problems.pop("", None)
            self._start(agents[:MAX_FOLLOWED])

    def _start(self, agents: list[Agent]) -> None:
        for agent in agents:
            running = self._tasks.get(agent.node)
            if running is None or running.done():
                if running is not None and not running.cancelled() and (error := running.exception()) is not None:
                    raise error
                self._is_settled.setdefault(agent.node, asyncio.Event())
                self._tasks[agent.node] = asyncio.create_task(self._follow(agent, is_first=running is None))

    async def _follow(self, agent: Agent, *, is_first: bool) -> None:
        question = self._question
        if not is_first:
            question = Question(wanted=question.wanted, since_s=None, follow=True)
        await self._limit.acquire()
        is_held = True

        def reached() -> None:
            nonlocal is_held
            if is_held:
                self._limit.release()
                is_held = False
                if self._problems.pop(agent.node, None) is not None:
                    self._output.remark(f"{agent.node}: the agent answers again; what it counted meanwhile is not shown")
                self._is_settled[agent.node].set()

        into = _Into(self._output, None, agent.node, reached)
        try:
            await run_in_agent(self._connection, self._cluster, agent, command(self._cluster, question), into)
            self._note(agent.node, "the command has ended")
        except AgentError as error:
            self._note(agent.node, str(error))
        finally:
            if is_held:
                self._limit.release()
            self._is_settled[agent.node].set()

    def _note(self, node: str, problem: str) -> None:
        """Tell about a problem, once for each."""
        if self._problems.get(node) != problem:
            self._problems[node] = problem
            self._output.remark(f"{node + ': ' if node else ''}{problem}; trying again")

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


class _Into:
    """Where the lines of one agent go: to the spool, or at once to the output. `reached`: called at its first line."""

    def __init__(self, output: Output, spool: Spool | None, node: str, reached: Callable[[], None] | None = None) -> None:
        self._output = output
        self._spool = spool
        self.node = node
        self._reached = reached
        self.has_any = False
        self.heads: list[tuple[FlowsHead, bytes]] = []
        """Those that are kept beside the spool."""

    def line(self, line: bytes) -> None:
        """Take a line of the agent's answer. Raises `NetpolqError` if it is none."""
        if not line.startswith(RECORD_START):
            head = decoded_head(line)
            if self._spool is None:
                self._output.head(self.node, head, line)
            else:
                self.heads.append((head, line))
        elif self._spool is None:
            pass_on(line, self._output)
        else:
            try:
                window_start(line)
            except ValueError as error:
                raise NetpolqError(f"its answer cannot be read: {error}") from error
            self._spool.add(self.node, line)
        self.has_any = True
        if self._reached is not None:
            self._reached()

    def remark(self, text: str) -> None:
        """Take a line that the command wrote for its user."""
        self._output.remark(f"{self.node}: {text.removeprefix('netpolq: ')}")


def _told(failures: dict[Agent, str], agents: int, output: Output) -> ExitCode:
    """Name the agents that could not be read, by reason. Returns the exit code. Raises `NetpolqError` if none could be read."""
    by_reason: dict[str, list[str]] = {}
    for agent, reason in sorted(failures.items()):
        by_reason.setdefault(reason, []).append(agent.node)
    texts = [f"{_names(nodes)}: {reason}" for reason, nodes in by_reason.items()]
    if len(failures) == agents:
        raise NetpolqError(f"no agent could be read: {'; '.join(texts)}")
    for text in texts:
        output.remark(text)
    return ExitCode.INCOMPLETE if failures else ExitCode.OK


def _names(nodes: list[str]) -> str:
    if len(nodes) <= _MAX_NAMED:
        return ", ".join(nodes)
    return f"{', '.join(nodes[:_MAX_NAMED])} and {len(nodes) - _MAX_NAMED} more"


class _Progress:
    """The number of agents that have answered, on standard error if that is a terminal."""

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._done = 0
        self._is_shown = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def step(self) -> None:
        self._done += 1
        self._write(f"\r{self._done} of {self._agents} agents have answered")

    def end(self) -> None:
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if self._is_shown:
            sys.stderr.write(text)
            sys.stderr.flush()
