"""The metric with the versions of what runs."""

import os
import platform

from importlib.metadata import version

from prometheus_client import CollectorRegistry

from netpolq.supervisor.metrics.exposition import expose
from netpolq.supervisor.metrics.state import StateCollector, build_info


def test_the_versions_are_labels_of_a_gauge_that_is_1() -> None:
    registry = CollectorRegistry()
    registry.register(StateCollector(lambda: [build_info()]))
    text = expose(registry).decode()
    assert "# TYPE netpolq_build_info gauge\n" in text
    labels = f'kernel="{os.uname().release}",python="{platform.python_version()}",version="{version("netpolq")}"'
    assert f"netpolq_build_info{{{labels}}} 1.0\n" in text
