"""The status document on its way from a Unix socket to the terminal."""

import asyncio
import json
import socket

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from aiohttp import web

from netpolq.dataplane import ruleset
from netpolq.errors import ExitCode, NetpolqError
from netpolq.model import Rejection
from netpolq.supervisor.status import (
    CniResultsStatus,
    DataplaneStatus,
    EventsStatus,
    ExporterStatus,
    FlowsStatus,
    NamesStatus,
    ReportStatus,
    SourceStatus,
    Status,
    StrictModeStatus,
    TrafficStatus,
    VerdictCacheStatus,
    WaitingStatus,
    WorkerStatus,
    decode,
    encode,
)
from netpolq.supervisor.status_client import fetch
from netpolq.supervisor.status_report import render_json, render_text
from netpolq_worker.pool import orphaned_ruleset

TRAFFIC = TrafficStatus(counted=True, missed=3, problem=None)
STATUS = Status(
    version="1.2.3",
    node="node-1",
    snapshot_version=12,
    in_force_version=12,
    ready=False,
    not_ready_reasons=["workers [1] are late"],
    workers=[
        WorkerStatus(slot=0, pid=4711, queue_num=100, acked_version=12, packets=1234567, restarts=0, rss_bytes=5 * 2**20),
        WorkerStatus(slot=1, pid=0, queue_num=101, acked_version=11, packets=8, restarts=3, rss_bytes=0),
    ],
    waiting=WaitingStatus(pid=4712, queue_num=102, acked_version=12, held=1234, packets=99, restarts=1, rss_bytes=6 * 2**20),
    source=SourceStatus(
        kind="folder",
        location="/etc/policies",
        synced=True,
        age_s=200.0,
        problems=[],
        objects={"namespaces": 2, "pods": 5, "policies": 4, "cluster_policies": 1, "nodes": 0},
        ignored={"Service": 3},
    ),
    cni_results=CniResultsStatus(
        location="/var/lib/cni/results",
        folder_exists=True,
        early_addresses=2,
        unusable_files=3,
        example="net-1-eth0: is not JSON",
        problems=["no inotify watch is left"],
    ),
    rejected=[
        Rejection(
            origin="team/web.yaml",
            document=2,
            key="NetworkPolicy shop/web",
            field="spec.ingress[0].ports[0].endPort",
            message="must not be below port",
            consequence="admits nothing",
        )
    ],
    dataplane=DataplaneStatus(
        form="compat", queues="100:101", fail_open=False, isolated_ingress=3, isolated_egress=2, unjudged_packets=7, hold=None
    ),
    verdict_cache=VerdictCacheStatus(enabled=True, entries=1200, size=32768, ttl_s=60, hits=98765),
    strict_mode=StrictModeStatus(enabled=True, done_version=12, examined=4000, denied=3),
    domain_names=NamesStatus(
        names=2,
        addresses=1500,
        refused={"pod-address": 0, "name-full": 12},
        dns_servers=["10.96.0.10", "fd00::a"],
        problem=None,
    ),
    programming_latency_s=0.0123,
    supervisor_restarts=1,
    run_dir_problem=None,
    flows=FlowsStatus(records=1200, max_records=50000, unrecorded=0, lost=5, dropped_early=0, damaged=2, traffic=TRAFFIC),
    flow_export=[
        ExporterStatus(
            name="otlp",
            target="http://collector:4318/v1/logs",
            waiting=1500,
            records={"exported": 123456, "lost": 7, "rejected": 0},
            problem="flow export to http://collector:4318/v1/logs: no answer within 10 s",
        )
    ],
    report=ReportStatus(address=":9443", problem="--report-tls-key /tls/key: No such file or directory"),
    events=EventsStatus(waiting=1200, events={"written": 3456, "suppressed": 7, "failed": 2}, problem="403: not permitted"),
)


@pytest.fixture
async def body() -> bytes:
    return encode(STATUS)


@pytest.fixture
async def run_dir(tmp_path: Path, body: bytes) -> AsyncIterator[Path]:
    """A run directory whose status socket is served for real, and answers `body`."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    application = web.Application()
    application.add_routes([web.get("/status", answer)])
    runner = web.AppRunner(application, handle_signals=False)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "status.sock").start()
    yield tmp_path
    await runner.cleanup()


async def test_the_document_arrives_as_it_was_sent(run_dir: Path) -> None:
    assert await asyncio.to_thread(fetch, run_dir) == STATUS


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"nonsense", b'{"version": "9"}', encode(STATUS)[:-1] + b', "more": 1}'])
async def test_an_answer_of_another_shape_is_an_error_naming_the_socket(run_dir: Path) -> None:
    with pytest.raises(NetpolqError, match=r"status\.sock") as caught:
        await asyncio.to_thread(fetch, run_dir)
    assert len(str(caught.value).splitlines()) == 1


async def test_an_answer_that_is_no_success_is_an_error(run_dir: Path, tmp_path: Path) -> None:
    runner = web.AppRunner(web.Application(), handle_signals=False)
    await runner.setup()
    (tmp_path / "other").mkdir()
    await web.UnixSite(runner, tmp_path / "other" / "status.sock").start()
    try:
        with pytest.raises(NetpolqError, match="404"):
            await asyncio.to_thread(fetch, run_dir / "other")
    finally:
        await runner.cleanup()


def test_a_socket_without_a_listener_is_one_line_naming_it(tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    with pytest.raises(NetpolqError, match="No such file") as caught:
        fetch(tmp_path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == ExitCode.FAILED
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(NetpolqError, match="Connection refused"):
        fetch(tmp_path)


def test_a_peer_that_closes_without_an_answer_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(str(tmp_path / "status.sock"), family=socket.AF_UNIX) as server:

        async def accept_and_close() -> None:
            fetching = asyncio.create_task(asyncio.to_thread(fetch, tmp_path))
            (await asyncio.to_thread(server.accept))[0].close()
            with pytest.raises(NetpolqError, match=r"status\.sock"):
                await fetching

        asyncio.run(accept_and_close())


def test_the_document_has_the_keys_that_programs_rely_on() -> None:
    document = json.loads(encode(STATUS))
    assert document["snapshot_version"] == 12
    assert {"slot", "pid", "queue_num", "acked_version", "packets"} <= document["workers"][0].keys()
    assert document["source"]["objects"] == {"namespaces": 2, "pods": 5, "policies": 4, "cluster_policies": 1, "nodes": 0}
    assert document["rejected"][0]["field"] == "spec.ingress[0].ports[0].endPort"
    assert json.loads(render_json(STATUS)) == document


def test_all_errors_of_a_rejected_object_are_shown_under_it() -> None:
    """One rejection, and its consequence once, behind the last error."""
    several = replace(STATUS, rejected=[replace(STATUS.rejected[0], further=("spec.egress[0].To: unknown field", "and 3 more"))])
    assert decode(encode(several)) == several
    lines = render_text(several).splitlines()
    start = lines.index("rejected (1)")
    assert lines[start + 1 : start + 5] == [
        "  team/web.yaml  document 2  NetworkPolicy shop/web  spec.ingress[0].ports[0].endPort",
        "      must not be below port",
        "      spec.egress[0].To: unknown field",
        "      and 3 more; admits nothing",
    ]


def test_a_rejection_of_an_agent_that_has_no_further_errors_is_read() -> None:
    document = json.loads(encode(STATUS))
    del document["rejected"][0]["further"]
    assert decode(json.dumps(document).encode()) == STATUS


def test_the_page_says_how_many_packets_wait() -> None:
    def on_hold(status: Status) -> str:
        return next(line for line in render_text(status).splitlines() if line.startswith("packets on hold")).split()[-1]

    assert on_hold(STATUS) == "1,234"
    assert on_hold(replace(STATUS, waiting=None)) == "unknown"


def test_an_agent_without_a_waiting_process_is_read() -> None:
    document = json.loads(encode(STATUS))
    del document["waiting"]
    assert decode(json.dumps(document).encode()) == replace(STATUS, waiting=None)


def test_numbers_that_are_not_known_yet_are_null() -> None:
    early = replace(STATUS, programming_latency_s=None, source=replace(STATUS.source, age_s=None))
    document = json.loads(encode(early))
    assert document["programming_latency_s"] is None
    assert document["source"]["age_s"] is None
    assert decode(encode(early)) == early
    assert "no sync yet" in render_text(early)


def test_the_page_says_why_the_agent_is_not_ready() -> None:
    assert "not ready: workers [1] are late" in render_text(STATUS)
    assert "not ready" not in render_text(replace(STATUS, ready=True, not_ready_reasons=[]))


def test_the_page_has_a_line_about_domain_names() -> None:
    line = next(line for line in render_text(STATUS).splitlines() if line.startswith("domain names"))
    assert line.endswith("1,500 addresses of 2 names; DNS servers: 10.96.0.10, fd00::a; not learned: 12 name-full")
    unused = replace(STATUS, domain_names=NamesStatus(names=0, addresses=0, refused={}, dns_servers=[], problem="no space"))
    lines = [line.removeprefix("domain names").strip() for line in render_text(unused).splitlines() if "domain names" in line]
    assert lines == ["not used by policies of this node's pods", "no space"]


def test_the_page_has_lines_about_the_export_of_flows_if_there_is_one() -> None:
    lines = [line.split("  ")[-1].strip() for line in render_text(STATUS).splitlines() if line.startswith("flow export")]
    assert lines == [
        "http://collector:4318/v1/logs, 123,456 records exported, 1,500 waiting; 7 lost",
        "flow export to http://collector:4318/v1/logs: no answer within 10 s",
    ]
    assert "flow export" not in render_text(replace(STATUS, flow_export=[]))


def test_a_document_of_an_agent_that_exports_no_flows_by_its_version_is_read() -> None:
    document = json.loads(encode(STATUS))
    del document["flow_export"]
    assert decode(json.dumps(document).encode()) == replace(STATUS, flow_export=[])


def test_the_page_has_a_line_about_flows_with_what_is_missing() -> None:
    def line(status: Status) -> str:
        return next(line for line in render_text(status).splitlines() if line.startswith("flows ")).removeprefix("flows").strip()

    assert line(STATUS) == "1,200 of 50,000 records; 5 connections lost by workers, 2 failed reads of a worker's records"
    complete = FlowsStatus(records=0, max_records=1000, unrecorded=0, lost=0, dropped_early=0, damaged=0, traffic=None)
    assert line(replace(STATUS, flows=complete)) == "0 of 1,000 records"
    assert "records;" not in render_text(replace(STATUS, flows=None))


def test_the_page_tells_whether_packets_and_bytes_are_counted() -> None:
    def line(traffic: TrafficStatus | None) -> str:
        assert STATUS.flows is not None
        text = render_text(replace(STATUS, flows=replace(STATUS.flows, traffic=traffic)))
        return (
            next((line for line in text.splitlines() if line.startswith("flow traffic")), "").removeprefix("flow traffic").strip()
        )

    assert line(TRAFFIC) == "packets and bytes are counted; 3 connections ended uncounted"
    assert line(replace(TRAFFIC, counted=False, missed=0)) == "not counted: net.netfilter.nf_conntrack_acct is not 1"
    assert line(replace(TRAFFIC, counted=False, missed=0, problem="no")) == "not counted: no"
    assert line(None) == ""


def test_a_document_of_an_agent_that_tells_nothing_of_its_flows_is_read() -> None:
    document = json.loads(encode(STATUS))
    del document["flows"]
    assert decode(json.dumps(document).encode()) == replace(STATUS, flows=None)


def test_the_page_aligns_the_columns_of_the_workers() -> None:
    lines = render_text(STATUS).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("WORKER"))
    header, *rows = lines[start : start + 4]
    assert {len(row) for row in rows} == {len(header)}
    assert [row.split()[0] for row in rows] == ["0", "1", "waiting"]
    for column, cells in {
        "PID": ("4711", "none", "4712"),
        "QUEUE": ("100", "101", "102"),
        "PACKETS": ("1,234,567", "8", "99"),
    }.items():
        end = header.index(column) + len(column)
        assert tuple(row[:end].split()[-1] for row in rows) == cells


def test_the_page_marks_a_worker_with_an_old_snapshot() -> None:
    worker_lines = [line for line in render_text(STATUS).splitlines() if "MiB" in line]
    assert ["(old)" in line for line in worker_lines] == [False, True, False]


def test_the_page_names_file_document_object_and_field_of_what_was_rejected() -> None:
    lines = render_text(STATUS).splitlines()
    start = lines.index("rejected (1)")
    assert lines[start + 1].split("  ")[1:] == [
        "team/web.yaml",
        "document 2",
        "NetworkPolicy shop/web",
        "spec.ingress[0].ports[0].endPort",
    ]
    assert "must not be below port; admits nothing" in lines[start + 2]
    assert "rejected" not in render_text(replace(STATUS, rejected=[]))


def test_a_manifest_cannot_steer_the_terminal() -> None:
    hostile = replace(STATUS.rejected[0], message="\x1b[2J\x07\nforged line")
    page = render_text(replace(STATUS, rejected=[hostile]))
    assert all(line.isprintable() for line in page.splitlines())
    assert "\\x1b[2J\\x07\\nforged line" in page


@pytest.mark.parametrize(
    ("age_s", "text"), [(0.25, "0.2 s"), (119.0, "119.0 s"), (200.0, "3 min"), (8000.0, "2 h"), (2e5, "2 d")]
)
def test_ages_are_shown_in_the_unit_that_suits_them(age_s: float, text: str) -> None:
    assert f"last sync {text} ago" in render_text(replace(STATUS, source=replace(STATUS.source, age_s=age_s)))


def test_the_page_shows_cni_results_that_are_read_and_what_is_wrong_with_them() -> None:
    lines = [line for line in render_text(STATUS).splitlines() if line.startswith("CNI results")]
    assert [line.split("  ")[-1].strip() for line in lines] == [
        "/var/lib/cni/results, 2 early addresses",
        "no inotify watch is left",
        "3, such as net-1-eth0: is not JSON",
    ]
    assert STATUS.cni_results is not None
    missing = replace(STATUS.cni_results, folder_exists=False, early_addresses=0, unusable_files=0, example="", problems=[])
    page = render_text(replace(STATUS, cni_results=missing))
    assert "/var/lib/cni/results does not exist, 0 early addresses" in page
    assert "CNI results not used" not in page
    off = replace(STATUS, cni_results=None)
    assert "CNI results" not in render_text(off)
    assert decode(encode(off)) == off


def test_what_the_run_directory_lacks_is_shown() -> None:
    """A full disk costs no packet; the status reports that the newest snapshot is not kept, so that it can be freed before a restart."""
    problem = "/run/netpolq/snapshot.bin: No space left on device"
    assert any(problem in line for line in render_text(replace(STATUS, run_dir_problem=problem)).splitlines())
    assert "run directory" not in render_text(STATUS)
    assert decode(encode(replace(STATUS, run_dir_problem=problem))).run_dir_problem == problem


def test_the_page_says_what_is_in_force_while_the_newest_snapshot_is_not() -> None:
    def snapshot(status: Status) -> str:
        return next(line for line in render_text(status).splitlines() if line.startswith("snapshot"))

    assert snapshot(STATUS).endswith("version 12, in force everywhere after 12.3 ms")
    late = replace(STATUS, in_force_version=11)
    assert snapshot(late).endswith("version 12 is published, not yet in force; in force: version 11")
    begun = replace(STATUS, in_force_version=0)
    assert snapshot(begun).endswith("in force: an earlier snapshot, version 11 and 12")
    none = replace(STATUS, snapshot_version=0, in_force_version=0)
    kept = replace(none, workers=[replace(STATUS.workers[0], acked_version=7)])
    assert snapshot(kept).endswith("none published yet; in force: an earlier snapshot, version 7")
    assert "in force: nothing" in snapshot(replace(none, workers=[]))


def test_the_pool_and_the_data_plane_mean_the_same_table() -> None:
    assert orphaned_ruleset.TABLE == ruleset.TABLE


def test_the_page_has_lines_about_events_if_they_are_written() -> None:
    lines = [line.split("  ")[-1].strip() for line in render_text(STATUS).splitlines() if line.startswith("events")]
    assert lines == ["3,456 written, 7 suppressed, 2 failed; 1,200 waiting", "403: not permitted"]
    assert "events" not in render_text(replace(STATUS, events=None))


def test_a_document_of_an_agent_that_writes_no_events_by_its_version_is_read() -> None:
    document = json.loads(encode(STATUS))
    del document["events"]
    assert decode(json.dumps(document).encode()) == replace(STATUS, events=None)
