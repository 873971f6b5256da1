"""The export of flows is part of a supervisor that is asked for it, and costs no other supervisor anything."""

import asyncio
import subprocess
import sys

from pathlib import Path

import pytest

from netpolq.flows.export.part import FlowExport
from netpolq.flows.record import decode
from netpolq.settings import resolve
from netpolq.supervisor.from_settings import make_flow_export
from netpolq.supervisor.metrics.state import StateCollector, flow_export_readings
from tests.support.flow_records import records

URL = "http://127.0.0.1:1/v1/logs"


def export_of(*arguments: str) -> FlowExport:
    found = make_flow_export(resolve([*arguments], {}))
    assert found is not None
    return found


def samples(export: FlowExport) -> dict[tuple[str, ...], float]:
    families = StateCollector(lambda: flow_export_readings(export)).collect()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_there_are_the_exporters_that_the_settings_ask_for(tmp_path: Path) -> None:
    assert make_flow_export(resolve([], {})) is None
    path = f"--flow-export-file={tmp_path}/flows.json"
    assert [exporter.name for exporter in export_of(path).exporters] == ["file"]
    assert [exporter.name for exporter in export_of(f"--flow-export-otlp={URL}").exporters] == ["otlp"]
    assert [exporter.name for exporter in export_of(path, f"--flow-export-otlp={URL}").exporters] == ["file", "otlp"]


@pytest.mark.parametrize("argument", ["", "--flow-export-file=/flows.json"])
def test_without_a_collector_nothing_of_opentelemetry_is_imported(argument: str) -> None:
    program = (
        "import sys\n"
        "import netpolq.supervisor.app\n"
        "from netpolq.settings import resolve\n"
        "from netpolq.supervisor.from_settings import make_flow_export\n"
        "make_flow_export(resolve(sys.argv[1].split(), {}))\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'google', 'netpolq.flows.export.otlp'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


async def test_each_exporter_gets_all_records_and_a_broken_one_does_not_hold_up_the_others(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    export = export_of(f"--flow-export-file={path}", f"--flow-export-otlp={URL}")
    assert samples(export)["netpolq_flow_export_records_total", "otlp", "lost"] == 0
    running = asyncio.create_task(export.run())
    await asyncio.sleep(0)
    export.offer(records(1, 5))
    async with asyncio.timeout(30):
        while not (export.problems and path.exists() and export.exporters[0].waiting == 0):  # noqa: ASYNC110 - files have no event
            await asyncio.sleep(0.005)
    assert len(export.problems) == 1
    assert URL in export.problems[0]
    found = samples(export)
    assert found["netpolq_flow_export_records_total", "file", "exported"] == 5
    assert found["netpolq_flow_export_waiting_records", "file"] == 0
    assert found["netpolq_flow_export_records_total", "otlp", "exported"] == 0
    assert found["netpolq_flow_export_waiting_records", "otlp"] == 5
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [decode(line) for line in path.read_bytes().splitlines()] == records(1, 5)


def test_the_environment_reaches_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abcdefg")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=blue")
    (exporter,) = export_of(f"--flow-export-otlp={URL}", "--hostname-override=node-7").exporters
    environment = exporter._environment  # type: ignore[attr-defined]
    assert environment.read_headers() == {"authorization": "Bearer abcdefg"}
    assert environment.attributes(exporter._own_attributes) == {  # type: ignore[attr-defined]
        "service.name": "netpolq",
        "service.version": exporter._version,  # type: ignore[attr-defined]
        "k8s.node.name": "node-7",
        "k8s.cluster.name": "blue",
    }
