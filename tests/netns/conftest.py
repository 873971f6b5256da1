"""What tests with real packets need: root, and most of them a running agent."""

import os

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.four_pods import cluster_with


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid():
        reason = "network namespaces and queues need root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four pods and an agent that fails closed, so that nothing passes unjudged."""
    with cluster_with("--workers", "2", "--no-fanout", "--fail-open=false") as started:
        yield started
