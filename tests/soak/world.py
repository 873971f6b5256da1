"""The environment of a soak: a box, an agent in it, and the events that disturb the agent."""

import random
import time

from contextlib import suppress
from pathlib import Path

import psutil

from loadtest.testbed import manifests
from loadtest.testbed.box import Box, Host
from loadtest.testbed.manifests import Body
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER, admit
from tests.support.upgrades import Upgrades

_FAR = Host(name="far", addresses=("10.71.8.1",))
_PODS = 60
_POLICIES = 20
_DRAW = (
    "label",
    "label",
    "label",
    "policy",
    "policy",
    "policy",
    "kill a worker",
    "stop a worker",
    "kill a supervisor",
    "take over",
)
"""The possible events; each is chosen at random."""


class World:
    """A cluster with constant changes, in which friend and stranger of the server keep their roles. `counts`: the events so far."""

    def __init__(self, box: Box, *flags: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._folder = box.directory / "manifests"
        self._folder.mkdir()
        hosts = (SERVER, FRIEND, STRANGER)
        fixed = [manifests.namespace("app"), *(manifests.pod(host, NODE, app=host.name.split("/")[1]) for host in hosts)]
        manifests.write(self._folder / "cluster.json", fixed)
        admit(self._folder, "friend")
        for number in range(_PODS):
            self._write_pod(number)
        for number in range(_POLICIES):
            self._write_policy(number)
        self.counts = dict.fromkeys(_DRAW, 0)
        self._upgrades = Upgrades(box, self._folder, *flags)

    @property
    def log(self) -> Path:
        """The logs of all agents, in order."""
        return self._upgrades.agent.log

    def disturb(self) -> None:
        """Cause one event. Raises `RuntimeError` if an agent does not come back."""
        what = self._random.choice(_DRAW)
        match what:
            case "label":
                self._write_pod(self._random.randrange(_PODS))
            case "policy":
                self._write_policy(self._random.randrange(_POLICIES))
            case "kill a worker":
                self._kill(self._random.choice(self.processes()["workers"] or [None]))
            case "stop a worker":
                self._stop(self._random.choice(self.processes()["workers"] or [None]))
            case "kill a supervisor":
                self._kill(next(iter(self.processes()["supervisor"]), None))
                agent = self._upgrades.agent
                agent.wait_until("the supervisor is back", agent.is_ready)
            case _:
                self._upgrades.upgrade()
        self.counts[what] += 1

    def _kill(self, process: psutil.Process | None) -> None:
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _stop(self, process: psutil.Process | None) -> None:
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
            self._upgrades.agent.wait_until("a worker that stands still is killed", lambda: not process.is_running())

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The agent's processes by role; the standby worker counts as a worker."""
        agent = self._upgrades.agent
        with suppress(psutil.NoSuchProcess):
            supervisor = agent.supervisor()
            return {"pool": [agent.pool], "supervisor": [supervisor] if supervisor else [], "workers": agent.forks()}
        return {"pool": [], "supervisor": [], "workers": []}

    def is_ready(self) -> bool:
        """Whether the agent reports that it is ready."""
        return self._upgrades.agent.is_ready()

    def metric(self, name: str) -> float:
        """The sum of all series of a metric at the moment; 0 while the agent does not answer."""
        with suppress(OSError):
            lines = [line for line in self._upgrades.agent.metrics().splitlines() if line.split("{")[0].split(" ")[0] == name]
            return sum(float(line.split()[-1]) for line in lines)
        return 0.0

    def close(self) -> None:
        """Stop the agent and remove its rules."""
        self._upgrades.agent.stop()
        self._upgrades.agent.cleanup()

    # --- the parts that change ----------------------------------------------------------------------------------------------------

    def _write_pod(self, number: int) -> None:
        host = Host(name=f"app/other-{number}", addresses=(f"10.71.9.{number + 1}",))
        body = manifests.pod(host, self._random.choice((NODE, _FAR)), colour=self._random.choice("rgb"))
        manifests.write(self._folder / f"pod-{number}.json", [body])

    def _write_policy(self, number: int) -> None:
        """Return a policy of other pods, or another policy of the server that allows neither friend nor stranger."""
        colour = {"podSelector": {"matchLabels": {"colour": self._random.choice("rgb")}}}
        rule: Body = {"from": [colour], "ports": [{"protocol": "TCP", "port": self._random.randrange(1, 65536)}]}
        selects = self._random.choice(({"app": "server"}, {"colour": self._random.choice("rgb")}))
        body = manifests.policy(f"app/other-{number}", podSelector={"matchLabels": selects}, ingress=[rule])
        manifests.write(self._folder / f"policy-{number}.json", [body])


def disturb_until(world: World, end_s: float, pause_s: float) -> None:
    """Cause events until a time of the monotonic clock."""
    while time.monotonic() < end_s:
        world.disturb()
        time.sleep(pause_s)
