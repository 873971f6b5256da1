"""The intake of flows: counts of workers become records with names, and no bytes of a worker end it."""

import os
import time

from collections.abc import Iterator

import pytest

from netpolq.addresses import AddressKey, parse_address
from netpolq.dataplane.conntrack import Connection
from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Action, Direction, PolicyMetrics, Tier
from netpolq.flows.conntrack_counters import Reading
from netpolq.flows.policy_counters import PolicyCounters
from netpolq.flows.record import FlowRecord, FlowVerdict
from netpolq.flows.traffic import Traffic
from netpolq.ipc import flow_memory
from netpolq.ipc.flow_memory import Flag, FlowWriter, Reasons, encode_reasons, pack_count
from netpolq.model import Labels, Pod, Update
from netpolq.store import Store
from netpolq.supervisor.flow_intake import FlowIntake
from netpolq.supervisor.metrics.state import flow_readings

WEB, DB, SITE = (parse_address(text) for text in ("10.0.0.3", "10.0.0.2", "192.0.2.7"))
ISOLATED = Isolation(Direction.INGRESS, ("shop/db",))
RULE = RuleDecision(Direction.EGRESS, Tier.ADMIN, "updates", 0, Action.ACCEPT)
ACCEPTED, DENIED = Reasons(True, RULE), Reasons(False, None, ISOLATED)


def pod(name: str, address: str) -> Pod:
    return Pod(namespace="shop", name=name, labels=Labels(app=name), ips=(parse_address(address),), node_name="node-1")


class Worker:
    """The intake, and the memory of one worker that it reads."""

    def __init__(self) -> None:
        self.store = Store()
        self.store.apply(Update(upserted=(pod("web", "10.0.0.3"), pod("db", "10.0.0.2")), ignored={}, observed_ns=0))
        self.traffic = Traffic()
        self.traffic.is_on = True
        counters = PolicyCounters(PolicyMetrics.RULE)
        self.intake = FlowIntake(self.store, counters, None, None, self.traffic, node="node-1", max_records=1000)
        self.memory = flow_memory.make()
        self.writer = FlowWriter(self.memory)
        self.intake.add_memory(1, os.dup(self.memory))

    def write(
        self,
        reasons: Reasons,
        source: AddressKey = WEB,
        destination: AddressKey = DB,
        *,
        port: int = 80,
        protocol: int = 6,
        flags: Flag = Flag(0),  # noqa: B008  # a number
        seconds: tuple[float, float] | None = None,
    ) -> None:
        now_s = time.time()
        first_s, last_s = seconds or (now_s - 0.25, now_s)
        count = pack_count(source, destination, port, protocol, flags, 3, 2)
        assert self.writer.write(int(first_s * 1e9), int(last_s * 1e9), [(3, encode_reasons(reasons))], [count])

    def records(self) -> list[FlowRecord]:
        self.intake.read()
        return list(self.intake.table.since(0))


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    os.close(worker.memory)


def test_ends_have_the_names_of_pods_and_of_learned_names(worker: Worker) -> None:
    worker.store.names[SITE] = frozenset({"www.example.com", "example.com"})
    worker.write(DENIED)
    worker.write(ACCEPTED, destination=SITE, port=443)
    denied, accepted = worker.records()
    assert (denied.flow.source.pod_name, denied.flow.destination.pod_name) == ("shop/web", "shop/db")
    assert denied.flow.source.labels == {"app": "web"}
    assert (denied.flow.verdict, denied.flow.ingress, denied.flow.egress) == (FlowVerdict.DENY, ISOLATED, None)
    assert (denied.connections, denied.node) == (2, "node-1")
    assert accepted.flow.destination.names == ("example.com", "www.example.com")
    assert (accepted.flow.verdict, accepted.flow.egress) == (FlowVerdict.ACCEPT, RULE)


def test_an_end_follows_its_pod_and_its_names(worker: Worker) -> None:
    worker.write(ACCEPTED, source=SITE)
    assert worker.records()[0].flow.source.pod == ""
    worker.store.names[SITE] = frozenset({"www.example.com"})
    worker.write(ACCEPTED, source=SITE)
    assert worker.records()[1].flow.source.names == ("www.example.com",)
    worker.store.apply(Update(upserted=(pod("new", "192.0.2.7"),), ignored={}, observed_ns=0))
    worker.write(ACCEPTED, source=SITE)
    assert worker.records()[2].flow.source.pod == "new"


@pytest.mark.parametrize(
    ("reasons", "verdict"),
    [
        (ACCEPTED, FlowVerdict.ACCEPT),
        (DENIED, FlowVerdict.DENY),
        (Reasons(True, RULE, None, True), FlowVerdict.ACCEPT),
        (Reasons(True, RULE, None, False, None, ISOLATED), FlowVerdict.WOULD_DENY),
        (Reasons(False, None, ISOLATED, True), FlowVerdict.WOULD_ACCEPT),
    ],
)
def test_the_verdict_tells_what_audit_would_change(worker: Worker, reasons: Reasons, verdict: FlowVerdict) -> None:
    worker.write(reasons)
    assert worker.records()[0].flow.verdict is verdict


@pytest.mark.parametrize(
    ("protocol", "flags", "name", "port"),
    [
        (6, Flag(0), "TCP", 80),
        (6, Flag.EVERY_PORT, "TCP", None),
        (132, Flag(0), "SCTP", 80),
        (1, Flag(0), "ICMP", None),
        (58, Flag(0), "ICMPv6", None),
        (47, Flag(0), "47", None),
        (6, Flag.ANONYMOUS, "other", None),
    ],
)
def test_protocols_and_ports(worker: Worker, protocol: int, flags: Flag, name: str, port: int | None) -> None:
    worker.write(DENIED, protocol=protocol, flags=flags)
    flow = worker.records()[0].flow
    assert (flow.protocol, flow.port) == (name, port)
    assert (flow.source.address == "other") == (flags is Flag.ANONYMOUS)


@pytest.mark.parametrize("seconds", [(0.0, 0.0), (5e9, 5e9), (0.0, 5e9), (5e9, 0.0)])
def test_moments_of_a_worker_are_believed_within_a_minute(worker: Worker, seconds: tuple[float, float]) -> None:
    before_s = time.time()
    worker.write(DENIED, seconds=seconds)
    (record,) = worker.records()
    assert before_s - 121 <= record.first_seen_s <= record.last_seen_s <= time.time()


def test_damaged_memory_is_counted_and_the_next_chunk_is_read(worker: Worker) -> None:
    worker.write(DENIED)
    os.pwrite(worker.memory, b"\xff", 64 + 50)
    for _number in range(5):
        assert worker.records() == []
    assert worker.intake.damaged == 1
    assert {reading.name: reading.values for reading in flow_readings(worker.intake)}["netpolq_flow_damaged_reads_total"] == (
        ((), 1),
    )
    worker.write(DENIED)
    assert len(worker.records()) == 1


def test_what_is_no_flow_memory_is_refused(worker: Worker) -> None:
    worker.intake.add_memory(2, os.memfd_create("x"))
    assert worker.intake.damaged == 1
    worker.write(DENIED)
    assert len(worker.records()) == 1


def test_lost_connections_of_all_workers_are_summed(worker: Worker) -> None:
    other = flow_memory.make()
    FlowWriter(other).lose(5)
    worker.writer.lose(2)
    worker.intake.add_memory(2, other)
    assert worker.intake.lost == 7


def test_traffic_counts_for_the_accepted_flow_and_never_for_a_denied_one(worker: Worker) -> None:
    worker.write(ACCEPTED)
    worker.write(DENIED, port=81)
    worker.write(ACCEPTED, protocol=1, port=3)
    assert {(found.packets, found.octets) for found in worker.records()} == {(None, None)}
    for number, (protocol, port) in enumerate(((6, 80), (6, 81), (1, 0))):
        worker.traffic.ended(Reading(Connection(WEB, DB, protocol, port), number, 5, 700))
    found = {(record.flow.protocol, record.flow.port): record for record in worker.records()}
    assert {key: (record.connections, record.packets, record.octets) for key, record in found.items()} == {
        ("TCP", 80): (2, 5, 700),
        ("TCP", 81): (2, None, None),
        ("ICMP", None): (2, 5, 700),
    }


def test_traffic_that_is_read_in_a_later_window_has_a_record_of_its_own(worker: Worker) -> None:
    now_s = time.time()
    worker.write(ACCEPTED, seconds=(now_s - 40, now_s - 39))
    worker.intake.read()
    worker.traffic.ended(Reading(Connection(WEB, DB, 6, 80), 1, 5, 700))
    first, second = worker.records()
    assert (first.connections, first.packets, second.connections, second.packets, second.octets) == (2, None, 0, 5, 700)
    _missed, increments = worker.intake.table.after(0)
    assert [(found.connections, found.octets) for found in increments] == [(2, None), (0, 700)]
