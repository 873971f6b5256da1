"""What holds for all tests."""

import gc
import os
import signal

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent
# A machine that is busy elsewhere makes an example slow, which says nothing of the code.
hypothesis.settings.register_profile("without deadlines", deadline=None)
hypothesis.settings.load_profile("without deadlines")

_NEED_ROOT = ("netns", "process", "loadtest", "vm", "ui")
_OF_KERNEL = (("netns", "dataplane"), ("netns", "waiting"))
"""Folders of the tests with the marker `kernel`."""
_SLOW = {line.split()[0] for line in (TESTS.parent / ".ci/guarded").read_text("utf-8").splitlines() if not line.startswith("#")}
"""Markers of tests that `make test` runs only if what they guard has changed."""


def _wanted() -> set[str] | None:
    """The slow tests to run; None: all."""
    text = os.environ.get("NETPOLQ_TEST_SLOW")
    return None if text is None else set(text.split())


def pytest_configure() -> None:
    """Interrupts arrive, also where the tests run in the background of a shell, which has them ignored by all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, which would look at thousands of tests again and again, and leave them alone later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the folders of the kernel's tests as a whole: to read them takes each process of a run a second."""
    wanted = _wanted()
    left_out = wanted is not None and "kernel" not in wanted and collection_path.relative_to(TESTS).parts in _OF_KERNEL
    return True if left_out else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and leave out slow tests that `NETPOLQ_TEST_SLOW` does not name, if it is set."""
    for item in items:
        parts = item.path.relative_to(TESTS).parts
        if parts[0] in _NEED_ROOT:
            item.add_marker(pytest.mark.netns)
        if parts[:2] in _OF_KERNEL:
            item.add_marker(pytest.mark.kernel)
        if parts[0] == "ui":
            item.add_marker(pytest.mark.ui)
    if (wanted := _wanted()) is not None:
        left_out = [item for item in items if any(item.get_closest_marker(name) for name in _SLOW - wanted)]
        if left_out:
            items[0].config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _root(request: pytest.FixtureRequest) -> None:
    """Nothing is passed over in silence: without root these tests say why they do not run, and fail where all must run."""
    if request.node.get_closest_marker("netns") is not None and os.geteuid():
        reason = "network namespaces and queues need root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
