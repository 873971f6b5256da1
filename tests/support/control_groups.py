"""Control groups for tests, in both versions of the interface."""

import os

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HIERARCHIES = Path("/sys/fs/cgroup")


@contextmanager
def control_group(controller: str, *limits: str) -> Iterator[Path]:
    """A control group below the root, removed at the end. Skips the test unless the group has one of the files in `limits`."""
    version_1 = _HIERARCHIES / controller
    folder = (version_1 if version_1.is_dir() else _HIERARCHIES) / f"netpolq-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cannot create control groups here: {error.strerror}")
    try:
        if not any((folder / name).exists() for name in limits):
            pytest.skip(f"control groups cannot limit {controller} here")
        yield folder
    finally:
        folder.rmdir()
