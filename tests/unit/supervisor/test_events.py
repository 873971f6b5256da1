"""Events are a part of a supervisor that is asked for them, records connections and watches a cluster, and of no other."""

import subprocess
import sys
import time

from pathlib import Path

import pytest

from netpolq.addresses import parse_address
from netpolq.decision import Isolation
from netpolq.enums import Direction, PolicyMetrics
from netpolq.events.part import DenialEvents
from netpolq.flows.policy_counters import PolicyCounters
from netpolq.ipc.flow_memory import Flag, FlowCount, Reasons
from netpolq.model import Pod, Update
from netpolq.settings import resolve
from netpolq.store import Store
from netpolq.supervisor.flow_intake import FlowIntake
from netpolq.supervisor.from_settings import make_events, write_events
from netpolq.supervisor.metrics.state import StateCollector, events_reading


@pytest.mark.parametrize(
    ("arguments", "writers"),
    [
        ([], 0),
        (["--events=false"], 0),
        (["--events"], 1),
        (["--events", "--flows=denied"], 1),
        (["--events", "--flows=off"], 0),
        (["--events", "--manifests=FOLDER"], 0),
    ],
    ids=["default", "off", "on", "denied flows", "no flows", "a folder of manifests"],
)
def test_there_is_a_writer_if_the_settings_ask_for_it_and_the_source_is_the_cluster(
    tmp_path: Path, arguments: list[str], writers: int
) -> None:
    settings = resolve([argument.replace("FOLDER", str(tmp_path)) for argument in arguments], {})
    events = make_events(settings, Store())
    found = write_events(settings, events)
    for part in found:
        part.close()
    assert len(found) == writers
    assert (events is not None) is bool(writers)


def test_without_the_option_no_client_is_imported() -> None:
    program = (
        "import sys\n"
        "import netpolq.supervisor.app\n"
        "print([name for name in sys.modules if name in ('netpolq.events.writer', 'kubernetes')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_denied_connections_that_workers_recorded_become_series_of_the_pod_and_of_no_other() -> None:
    store = Store()
    local, foreign = (
        Pod(namespace="shop", name=name, labels={}, ips=(parse_address(address),), node_name=node)
        for name, address, node in (("db", "10.0.0.2", "node-1"), ("web", "10.0.0.1", "node-2"))
    )
    store.apply(Update(upserted=(local, foreign), ignored={}, observed_ns=0))
    events = DenialEvents(store, "node-1")
    intake = FlowIntake(store, PolicyCounters(PolicyMetrics.OFF), None, events, node="node-1", max_records=100)
    reasons = Reasons(is_accept=False, ingress=Isolation(Direction.INGRESS, ("shop/db",)))
    count = FlowCount(foreign.ips[0], local.ips[0], 80, 6, Flag(0), reasons, 3)
    anonymous = count._replace(source=b"", destination=b"", flags=Flag.ANONYMOUS)
    intake.count([count, anonymous, count._replace(reasons=Reasons(is_accept=True))], 1000.0, 1001.0)
    intake.count([count._replace(reasons=reasons._replace(egress=Isolation(Direction.EGRESS, ("shop/web",))))], 1001.0, 1002.0)
    (write,) = iter(lambda: events.table.next_write(time.monotonic()), None)
    assert (write.key.pod.name, write.connections) == ("db", 6)
    assert write.message.startswith("ingress from shop/web (10.0.0.1) to TCP 80 denied: isolated by shop/db")


def test_metrics_count_events_by_what_became_of_them() -> None:
    events = DenialEvents(Store(), "node-1")
    events.written, events.failed, events.table.suppressed = 5, 2, 7
    (family,) = StateCollector(lambda: [events_reading(events)]).collect()
    assert {(sample.name, sample.labels["outcome"], sample.value) for sample in family.samples} == {
        ("netpolq_events_total", "written", 5),
        ("netpolq_events_total", "suppressed", 7),
        ("netpolq_events_total", "failed", 2),
    }
