"""Commands in the containers of agents, through the API server (pods/exec): which agents there are, and the lines that a command writes.

The status socket is a Unix socket for root alone, so no port can be forwarded to it. The command in the container has the agent's own
version and run dir.
"""

import asyncio

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from netpolq.errors import NetpolqError
from netpolq.flow_view.agents import Agent, find
from netpolq.flow_view.exec_stream import PROTOCOLS, ExecStream
from netpolq.logs import one_line
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.watch import StatusError

MAX_AT_ONCE = 16
"""Agents that are read at once, or that are connected to at once: each is a process on its node, and a stream of the API server."""

MAX_FOLLOWED = 256
"""Agents that are followed: each holds a connection."""

AGAIN_S = 10.0
"""How long after a failure agents are looked for again."""

_CONTAINER = "agent"
_FORBIDDEN = "you need the verbs create and get of the resource pods/exec in the namespace {}: {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How to reach the agents of a cluster. `nodes`: empty for all. `run_dir`: None for the agents' own. `timeout_s`: of an agent."""

    kubeconfig: str
    context: str
    namespace: str
    selector: str
    nodes: frozenset[str]
    run_dir: str | None
    timeout_s: float

    def connection(self) -> Connection:
        """A connection to its API server, closed."""
        return Connection(
            self.kubeconfig,
            context=self.context,
            max_connections=MAX_FOLLOWED + MAX_AT_ONCE,
            advice="see --kubeconfig and --context",
        )


class AgentError(Exception):
    """An agent could not be read. Its text: why, in one line."""


class Lines(Protocol):
    """Takes what a command writes. `has_any`: a line has come."""

    @property
    def has_any(self) -> bool: ...

    def line(self, line: bytes) -> None:
        """Take a line of standard output. Raises `NetpolqError` if it is not one that the command writes."""
        ...

    def remark(self, text: str) -> None:
        """Take a line of standard error."""
        ...


async def run_in_agent(connection: Connection, cluster: Cluster, agent: Agent, argv: Sequence[str], into: Lines) -> None:
    """Run the command in the agent's container until its end. Raises `AgentError` with the reason if that is not a good one."""
    if agent.problem:
        raise AgentError(agent.problem)
    path = f"/api/v1/namespaces/{agent.namespace}/pods/{agent.pod}/exec"
    query = [*(("command", word) for word in argv), ("container", _CONTAINER), ("stdout", "true"), ("stderr", "true")]
    stream = ExecStream()
    try:
        async with connection.websocket(path, query, protocols=PROTOCOLS, timeout_s=cluster.timeout_s) as opened:
            while not stream.is_complete and not stream.failure:
                async with asyncio.timeout(cluster.timeout_s):
                    message = await opened.receive()
                if message.type not in {aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT}:
                    break
                lines, errors = stream.feed(message.data if isinstance(message.data, bytes) else str(message.data).encode())
                for line in lines:
                    into.line(line)
                for text in errors:
                    if not text.startswith("netpolq: error: "):  # the reason of its end, which follows
                        into.remark(text)
    except BrokenPipeError:  # of standard output: nothing is sent to the agent
        raise
    except TimeoutError:
        raise AgentError(f"no answer within {cluster.timeout_s:.0f} s (see --timeout){_so_far(into)}") from None
    except StatusError as error:
        text = _FORBIDDEN.format(repr(agent.namespace), error) if error.code == 403 else f"the API server answers {error}"
        raise AgentError(one_line(text)) from error
    except (aiohttp.ClientError, OSError, NetpolqError) as error:
        raise AgentError(f"{one_line(str(error)) or type(error).__name__}{_so_far(into)}") from error
    if stream.failure:
        raise AgentError(f"{stream.failure}{_so_far(into)}")
    if not stream.is_complete:
        raise AgentError(f"the connection ended in the middle{_so_far(into)}")


def _so_far(into: Lines) -> str:
    return "; its flows are incomplete" if into.has_any else ""


async def found_agents(connection: Connection, cluster: Cluster) -> list[Agent]:
    """The agents. Raises `NetpolqError`, also if the API server cannot be reached."""
    try:
        return await find(
            connection, cluster.namespace, cluster.selector, cluster.nodes, timeout_s=max(cluster.timeout_s, AGAIN_S)
        )
    except TimeoutError as error:
        raise NetpolqError(f"the API server {connection.address} does not answer") from error
    except StatusError as error:
        raise NetpolqError(f"the API server {connection.address} answers {one_line(str(error))}") from error
    except (aiohttp.ClientError, OSError) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise NetpolqError(f"the API server {connection.address} cannot be reached: {reason}") from error
