"""A node with the ruleset of a fail-closed agent."""

import asyncio
import os

from collections.abc import AsyncIterator, Iterator

import pytest

from netpolq.dataplane.install import Ruleset, cleanup, probe
from netpolq.dataplane.ruleset import RulesetConfig
from netpolq.enums import Dataplane
from tests.netns.dataplane.lab import (
    NFT_DEADLINE_S,
    NODE,
    Lab,
    MovingListener,
    QueueListener,
    fail_closed,
    run,
)


@pytest.fixture
def node(lab: Lab) -> Iterator[Lab]:
    """The lab, with the test running on its node, without any rules."""
    with lab.inside(NODE):
        run("nft", "flush", "ruleset")
        yield lab


@pytest.fixture(scope="module")
def form(lab: Lab) -> Dataplane:
    """The form of the queue rule to test; by default the one that the probe returns."""
    with lab.inside(NODE):
        return asyncio.run(probe(Dataplane(os.environ.get("NETPOLQ_TEST_DATAPLANE", "auto"))))


@pytest.fixture
def config(form: Dataplane, node: Lab) -> RulesetConfig:
    """Fail-closed, with defaults otherwise."""
    del node  # the test runs on the node, whose rules are cleared first
    return fail_closed(form, dns_in_prerouting=False)


@pytest.fixture
async def ruleset(config: RulesetConfig) -> AsyncIterator[Ruleset]:
    yield Ruleset(config, nft_deadline_s=NFT_DEADLINE_S)
    cleanup()


@pytest.fixture
def listener(node: Lab) -> Iterator[QueueListener]:
    made = QueueListener()
    yield made
    made.close()


@pytest.fixture
def waiting(node: Lab) -> Iterator[MovingListener]:
    """A listener on the workers' queue that can move packets to another queue."""
    del node
    made = MovingListener(100)
    yield made
    made.close()
