"""Control groups of our own, in either version of the interface."""

import os

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HIERARCHIES = Path("/sys/fs/cgroup")


@contextmanager
def control_group(controller: str, *limits: str) -> Iterator[Path]:
    """A control group below the first one, removed at the end. `limits`: files of which it must have one. Skips the test otherwise."""
    version_1 = _HIERARCHIES / controller
    folder = (version_1 if version_1.is_dir() else _HIERARCHIES) / f"netpolq-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error.strerror}")
    try:
        if not any((folder / name).exists() for name in limits):
            pytest.skip(f"no control group here may limit {controller}")
        yield folder
    finally:
        folder.rmdir()
