"""An agent that exports flows says where to, and is ready, whatever the targets do."""

from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.supervisor import status
from netpolq.supervisor.status_client import fetch

TOKEN = "secret-of-the-test"  # noqa: S105
URL = "http://127.0.0.1:1/v1/logs"


def test_an_agent_whose_targets_do_not_exist_is_ready_and_names_them(
    box: Box, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token in its environment is in no document and no line of it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{TOKEN}")
    path = box.directory / "missing" / "flows.json"
    with Agent(box, folder, "--workers=1", f"--flow-export-otlp={URL}", f"--flow-export-file={path}") as agent:
        assert agent.is_ready()
        metrics, found = agent.metrics(), fetch(agent.run_dir)
    for exporter in ("file", "otlp"):
        for outcome in ("exported", "lost", "rejected"):
            assert f'netpolq_flow_export_records_total{{exporter="{exporter}",outcome="{outcome}"}} 0.0' in metrics
        assert f'netpolq_flow_export_waiting_records{{exporter="{exporter}"}} 0.0' in metrics
    assert [(exporter.name, exporter.target) for exporter in found.flow_export] == [("file", str(path)), ("otlp", URL)]
    assert TOKEN not in agent.log.read_text() + metrics + status.encode(found).decode()
