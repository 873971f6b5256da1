"""The protocol of a source of agents."""

from collections.abc import Sequence
from typing import Literal, Protocol

from netpolq.explain.known import Known
from netpolq.ui.policies import Policy
from netpolq.ui.state.known_agents import KnownAgents

SourceName = Literal["agent", "cluster", "demo"]

STATUS_PERIOD_S = 5.0
FLOWS_PERIOD_S = 1.0
MAX_PAUSE_S = 10.0
"""Longest pause after failures, between two attempts to read an agent."""


class Source(Protocol):
    """Reads agents. `name`: of its kind. `where`: what is read, in words."""

    name: SourceName

    @property
    def where(self) -> str: ...

    async def open(self) -> None:
        """Prepare to run. Raises `NetpolqError` if it can never work, such as for a kubeconfig that cannot be read."""
        ...

    async def run(self, agents: KnownAgents) -> None:
        """Tell what agents say, without an end: failures are told, too. Cancel it to stop."""
        ...

    async def objects(self, ends: Sequence[str] | None) -> Known:
        """Return all objects; `ends` as in `netpolq.explain.known.Read`. Raises `NetpolqError`."""
        ...

    async def manifest(self, policy: Policy) -> str | None:
        """Return the manifest of a policy as it is where it comes from, None if it is not known there. Raises `NetpolqError`."""
        ...
