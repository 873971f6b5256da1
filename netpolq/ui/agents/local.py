"""Agents of this node, read over their status sockets."""

import asyncio

from collections.abc import Sequence
from pathlib import Path

import aiohttp

from netpolq.errors import NetpolqError
from netpolq.explain.known import Known
from netpolq.ui.agents.http import Endpoint, HttpAgent
from netpolq.ui.agents.source import SourceName
from netpolq.ui.policies import Policy
from netpolq.ui.state.known_agents import KnownAgents


class LocalAgents:
    """The agents of some status sockets. Construct it while an event loop runs."""

    name: SourceName = "agent"

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._agents = [
            HttpAgent(Endpoint(name=f"the agent on {str(path)!r}", url="http://localhost"), aiohttp.UnixConnector(str(path)))
            for path in sockets
        ]

    @property
    def where(self) -> str:
        """The agents by their nodes, or by their sockets as long as these are not known."""
        return " and ".join(agent.title for agent in self._agents)

    async def open(self) -> None:
        """See `Source`: there is nothing to prepare."""

    async def run(self, agents: KnownAgents) -> None:
        """See `Source`."""
        async with asyncio.TaskGroup() as group:
            for agent in self._agents:
                group.create_task(agent.run(agents))

    async def objects(self, ends: Sequence[str] | None) -> Known:
        """The objects of the first agent that answers: all agents of a cluster have the same policies."""
        for agent in self._agents[:-1]:
            try:
                return await agent.objects(ends)
            except NetpolqError:
                continue
        return await self._agents[-1].objects(ends)

    async def manifest(self, policy: Policy) -> str | None:
        """An agent keeps no manifests."""
        return None
