"""Fixtures of the tests with real packets: a cluster with a running agent."""

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.four_pods import cluster_with


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four pods and an agent that fails closed, so that nothing passes without evaluation, and queues every first packet."""
    with cluster_with("--workers", "2", "--no-fanout", "--fail-open=false", "--verdict-cache=off") as started:
        yield started
