"""A worker's metrics in this process. prometheus_client keeps the place of its values in a global, so other tests get theirs back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prometheus_client import values

from netpolq_worker.worker.metrics import WorkerMetrics


@contextmanager
def worker_metrics(directory: Path) -> Iterator[WorkerMetrics]:
    """Metrics whose values are in files in a directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(directory))
        patch.setattr(values, "ValueClass", values.ValueClass)
        yield WorkerMetrics(0)
