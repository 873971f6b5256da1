"""What holds for all tests."""

import os

from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent
# A machine that is busy elsewhere makes an example slow, which says nothing of the code.
hypothesis.settings.register_profile("without deadlines", deadline=None)
hypothesis.settings.load_profile("without deadlines")

_NEED_ROOT = ("netns", "process", "loadtest", "vm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in namespaces are marked as such by their folder."""
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in _NEED_ROOT:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(autouse=True)
def _root(request: pytest.FixtureRequest) -> None:
    """Nothing is passed over in silence: without root these tests say why they do not run, and fail where all must run."""
    if request.node.get_closest_marker("netns") is not None and os.geteuid():
        reason = "network namespaces and queues need root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
