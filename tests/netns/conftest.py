"""Fixtures of the tests with real packets: a cluster with a running agent, and a node with two pods for parts of it."""

from collections.abc import Iterator

import pytest

from tests.netns.dataplane.lab import Lab, built
from tests.support.cluster import Cluster
from tests.support.four_pods import cluster_with


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four pods and an agent that fails closed, so that nothing passes without evaluation, and queues every first packet."""
    with cluster_with("--workers", "2", "--no-fanout", "--fail-open=false", "--verdict-cache=off") as started:
        yield started


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A node and two pods without an agent, each pod on a pair of its own."""
    with built() as made:
        yield made
