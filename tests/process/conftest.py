"""Fixtures of the process tests: a small testbed with a pod that admits one of two clients."""

import socket

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import CHECKOUT, Box, Host
from loadtest.testbed.probe import Probe

NODE = Host(name="node", addresses=("10.71.0.1", "fd71::1"))
SERVER = Host(name="app/server", addresses=("10.71.1.1", "fd71:1::1"), serves=(("TCP", 80), ("UDP", 80)))
FRIEND = Host(name="app/friend", addresses=("10.71.1.2", "fd71:1::2"))
STRANGER = Host(name="app/stranger", addresses=("10.71.1.3", "fd71:1::3"))

MODES = pytest.mark.parametrize("mode", ["true", "false"], ids=["fail-open", "fail-closed"])


@contextmanager
def opened() -> Iterator[Box]:
    with Box(node=NODE, hosts=[SERVER, FRIEND, STRANGER]) as box:
        yield box


@pytest.fixture
def box() -> Iterator[Box]:
    with opened() as box:
        yield box


@pytest.fixture
def for_other_users() -> None:
    """Let other users read the checkout, whose program they run. A clone in a directory of `mktemp` is closed to them."""
    CHECKOUT.chmod(CHECKOUT.stat().st_mode | 0o055)


def written(box: Box) -> Path:
    """Write the manifests of the testbed: the server admits only the friend."""
    folder = box.directory / "manifests"
    folder.mkdir()
    manifests.write(
        folder / "cluster.json",
        [
            manifests.namespace("app"),
            *(manifests.pod(host, NODE, app=host.name.split("/")[1]) for host in (SERVER, FRIEND, STRANGER)),
        ],
    )
    admit(folder, "friend")
    return folder


@pytest.fixture
def folder(box: Box) -> Path:
    return written(box)


def admit(folder: Path, app: str) -> None:
    """Replace the server's policy by one that admits only this client."""
    rule = {"from": [{"podSelector": {"matchLabels": {"app": app}}}]}
    manifests.write(
        folder / "policy.json",
        [manifests.policy("app/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[rule])],
    )


CLOSED_AGENT = ("--fail-open=false", "--workers=2", "--strict-mode=false", "--verdict-cache=off")


@pytest.fixture
def closed_agent(box: Box, folder: Path) -> Iterator[Agent]:
    """A running agent in fail-closed mode, with two workers that evaluate every connection."""
    with Agent(box, folder, *CLOSED_AGENT) as agent:
        yield agent


@pytest.fixture(scope="module")
def shared_box() -> Iterator[Box]:
    """A testbed for all tests of a module that leave it as it was."""
    with opened() as box:
        yield box


@pytest.fixture(scope="module")
def _agent_of_module(shared_box: Box) -> Iterator[Agent]:
    with Agent(shared_box, written(shared_box), *CLOSED_AGENT) as agent:
        yield agent


@pytest.fixture
def shared_agent(_agent_of_module: Agent) -> Iterator[Agent]:
    """As `closed_agent`, for all tests of a module that leave it running. Afterwards it is ready, and the server admits only the friend."""
    yield _agent_of_module
    folder = _agent_of_module.manifests
    assert folder is not None
    before, policy = _agent_of_module.status(), (folder / "policy.json").read_bytes()
    admit(folder, "friend")
    if (folder / "policy.json").read_bytes() != policy:
        _agent_of_module.wait_until_enforced(before)
    _agent_of_module.wait_until("ready", _agent_of_module.is_ready)


def worker_of(agent: Agent) -> int:
    return agent.status()["workers"][0]["pid"]


def waiting_of(agent: Agent) -> int:
    """Process id of the waiting process; 0 if there is none at the moment."""
    waiting = agent.status()["waiting"]
    return 0 if waiting is None else waiting["pid"]


@contextmanager
def listening(box: Box, port: int) -> Iterator[socket.socket]:
    with box.inside(SERVER.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind((box.address(SERVER.name, 4), port))
        server.settimeout(10.0)
        yield server


def send(box: Box, client: str, port: int, data: bytes) -> None:
    with box.inside(client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.sendto(data, (box.address(SERVER.name, 4), port))


def receives_nothing(server: socket.socket) -> bool:
    server.settimeout(0.5)
    try:
        server.recv(64)
    except TimeoutError:
        return True
    return False


def assert_admitted(box: Box, app: str, *, families: Sequence[int] = (4,), protocols: Sequence[str] = ("TCP",)) -> None:
    """Assert that only this client reaches the server, over all families and protocols. `app` empty: no client does."""
    probes = [
        Probe(client.name, box.address(SERVER.name, family), protocol, 80)
        for client in (FRIEND, STRANGER)
        for family in families
        for protocol in protocols
    ]
    reached = [probe for probe, result in zip(probes, box.probe(probes), strict=True) if result.reached]
    assert reached == [probe for probe in probes if probe.source == f"app/{app}"]
