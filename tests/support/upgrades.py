"""Agents of one box, each of which takes over from the one before."""

from pathlib import Path

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode


class Upgrades:
    """A first agent, and its successors. `agent`: the present one; the caller stops it."""

    def __init__(self, box: Box, folder: Path, *flags: str) -> None:
        self._box, self._folder, self._flags = box, folder, (*flags, "--workers=2", "--takeover")
        self.agent = self._make()
        self.agent.start()

    def _make(self) -> Agent:
        return Agent(self._box, self._folder, *self._flags)

    def upgrade(self) -> None:
        """Start a replacement, and wait until it is the only agent."""
        before, self.agent = self.agent, self._make()
        self.agent.start()  # both may report that they are ready
        before.wait_until("the agent before has left", lambda: not before.is_running)
        assert before.stop() == ExitCode.OK
        self.agent.wait_until("ready", self.agent.is_ready)
        self.agent.wait_until("its status is there", lambda: self.agent.status()["in_force_version"] > 0)
