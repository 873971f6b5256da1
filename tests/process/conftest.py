"""A small box for tests that are about processes: a pod that admits one client and not the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import manifests
from tests.support.agent import Agent
from tests.support.box import Box, Host

NODE = Host(name="node", addresses=("10.71.0.1", "fd71::1"))
SERVER = Host(name="app/server", addresses=("10.71.1.1", "fd71:1::1"), serves=(("TCP", 80), ("UDP", 80)))
FRIEND = Host(name="app/friend", addresses=("10.71.1.2", "fd71:1::2"))
STRANGER = Host(name="app/stranger", addresses=("10.71.1.3", "fd71:1::3"))


@pytest.fixture
def box() -> Iterator[Box]:
    with Box(node=NODE, hosts=[SERVER, FRIEND, STRANGER]) as box:
        yield box


@pytest.fixture
def folder(box: Box) -> Path:
    """Manifests of the box: the server admits its friend alone."""
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


def admit(folder: Path, app: str) -> None:
    """Replace the server's policy: one client may connect."""
    rule = {"from": [{"podSelector": {"matchLabels": {"app": app}}}]}
    manifests.write(
        folder / "policy.json",
        [manifests.policy("app/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[rule])],
    )


@pytest.fixture
def closed_agent(box: Box, folder: Path) -> Iterator[Agent]:
    """A running agent that fails closed, with two workers that see every connection."""
    with Agent(box, folder, "--fail-open=false", "--workers=2", "--strict-mode=false", "--verdict-cache=off") as agent:
        yield agent
