"""Agents of a cluster, read over TLS at their --report-bind-address: no process in their containers, and no right to pods/exec.

The API server tells the addresses of the agents' pods. Whichever address answers must have a certificate with the DNS name of agents.
"""

import asyncio
import socket

from collections.abc import Sequence

import aiohttp

from aiohttp.abc import AbstractResolver, ResolveResult

from netpolq.flow_view.agents import Agent
from netpolq.flow_view.exec_command import Cluster
from netpolq.tls import TlsContext
from netpolq.ui.agents.exec import ExecAgents
from netpolq.ui.agents.http import Endpoint, HttpAgent
from netpolq.ui.state.known_agents import KnownAgents

AGENT_NAME = "netpolq-agent"
"""DNS name (subjectAltName) of agents' certificates."""

MAX_CONNECTIONS = 4
"""To one agent: flows, status, objects, and one more."""


class MutualTlsAgents(ExecAgents):
    """The agents of a cluster. `port`: of --report-bind-address. Objects and manifests come from the API server."""

    def __init__(self, cluster: Cluster, tls: TlsContext, port: int) -> None:
        super().__init__(cluster)
        self._tls = tls
        self._port = port
        self._timeout_s = cluster.timeout_s

    def _take(self, found: Sequence[Agent], agents: KnownAgents) -> None:
        super()._take([self._checked(agent) for agent in found], agents)

    @staticmethod
    def _checked(agent: Agent) -> Agent:
        return agent if agent.problem or agent.address else agent._replace(problem="its pod has no address yet")

    async def _read(self, agent: Agent, agents: KnownAgents) -> None:
        connector = aiohttp.TCPConnector(
            ssl=self._tls.following(), resolver=_Fixed(agent.address), use_dns_cache=False, limit=MAX_CONNECTIONS
        )
        endpoint = Endpoint(
            name=f"the agent at {agent.address}, port {self._port},",
            url=f"https://{AGENT_NAME}:{self._port}",
            node=agent.node,
            pod=agent.pod,
            timeout_s=self._timeout_s,
        )
        await HttpAgent(endpoint, connector).run(agents)


class _Fixed(AbstractResolver):
    """Resolves every name to one address, so that TLS checks the name of agents, which no DNS server knows."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        del family  # that of the address
        found = await asyncio.get_running_loop().getaddrinfo(
            self._address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=int(socket.AI_NUMERICHOST)
            )
            for kind, _type, protocol, _name, address in found
        ]

    async def close(self) -> None:
        """Nothing is open."""
