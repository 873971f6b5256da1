"""What tests with real packets need: root."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid():
        reason = "network namespaces and queues need root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
