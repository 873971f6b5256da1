"""What recording flows costs: time of a packet in a worker, memory of the flow table, and time of a scrape with metrics of rules.

`python -m loadtest.flow_costs`. The packet loop runs with and without a recorder, in turns, on packets made in memory; the work of the
kernel and of the library is not in its times. All times are CPU times of this process.
"""

import argparse
import gc
import os
import random
import struct
import time
import tracemalloc

from collections.abc import Sequence
from statistics import median
from typing import cast

from prometheus_client import CollectorRegistry

from netpolq.addresses import AddressKey, packed_address, parse_address
from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Action, Direction, PolicyMetrics, Tier, Verdict
from netpolq.flows.policy_counters import PolicyCounters
from netpolq.flows.record import Flow, FlowEnd, FlowVerdict
from netpolq.flows.table import HISTORY_S, WINDOW_S, FlowTable
from netpolq.ipc import flow_memory
from netpolq.ipc.flow_memory import FlowReader, FlowWriter, Reasons
from netpolq.model import Labels, LabelSelector, NetworkPolicy, Pod, PodPeer, PolicyRule, Update
from netpolq.policy.compiler import Compiler
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.reader import SnapshotReader
from netpolq.store import Store
from netpolq.supervisor.metrics.exposition import PolicyCollector, expose
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.flow_recorder import FlowRecorder
from netpolq_worker.worker.nfqueue import Packet
from netpolq_worker.worker.packet_loop import WorkerContext, handle_packets

ROUNDS = 15
KNOWN_PACKETS = 200_000
COLD_PACKETS = 50_000
RECORDS = 50_000
POLICIES = 1000
RULES = 5

_SERVER, _CLIENT = parse_address("10.0.0.1"), parse_address("10.0.0.2")
_MASK = 0b111
_PENDING_ORIGINAL = 3
_FLUSH_NS = 250_000_000
_KNOWN = 60
"""Different connections among the known packets."""


class _Packet:
    """A packet as the queue gives it to the loop."""

    __slots__ = ("_payload", "id")

    def __init__(self, payload: bytes) -> None:
        self.id = 1
        self._payload = payload

    def get_mark(self) -> int:
        return _PENDING_ORIGINAL

    def get_payload(self) -> bytes:
        return self._payload


class _Context:
    """What the loop needs of a worker, and a kernel that takes all verdicts. `flows`: whether flows are recorded."""

    queue_num = 1
    fail_verdict = Verdict.DROP
    mark_mask = _MASK
    waiting_queue = 2
    message_waits = False
    observe = None
    reject = None
    malformed = 0

    def __init__(self, snapshot: bytes, *, flows: bool) -> None:
        self.queue = self.metrics = self
        self._recorder: FlowRecorder | None = None
        if flows:
            memory = flow_memory.make()
            self._reader = FlowReader(memory)
            self._recorder = FlowRecorder(FlowWriter(memory), denied_only=False)
            os.close(memory)
        self.flow_cache = FlowCache(flows=self._recorder)
        self.flow_cache.load(SnapshotReader(snapshot), None)
        self._flush_due_ns = 0
        self.handler = handle_packets(lambda: cast("WorkerContext", self))
        next(self.handler)

    def verdict(self, packet_id: int, verdict: Verdict) -> None:
        """As the queue's."""

    def answer(self, dropped: Sequence[int], last_accepted: int, mark: int) -> None:
        """As the queue's."""

    def count_evaluated(self, counted: int, packets: int, duration_ns: int) -> None:
        """As that of the metrics."""

    def dispose_of_orphans(self, last_id: int) -> None:
        """As the worker's."""

    def housekeeping(self, now_ns: int) -> None:
        """As the worker's, with a reader of the flow memory."""
        if self._recorder is None:
            return
        if now_ns >= self._flush_due_ns:
            self._flush_due_ns = now_ns + _FLUSH_NS
            self.flow_cache.flush_flows()
            self._reader.read()

    def cpu_ns(self, packets: Sequence[_Packet], times: int) -> float:
        """CPU time of a packet."""
        send = self.handler.send
        started_ns = time.process_time_ns()
        for _number in range(times):
            for packet in packets:
                send(cast("Packet", packet))
        return (time.process_time_ns() - started_ns) / (len(packets) * times)


def _snapshot() -> bytes:
    """A server that admits a client on every port."""
    store = Store()
    admitted = PolicyRule(peers=(PodPeer(None, LabelSelector()),))
    policy = NetworkPolicy(
        namespace="a", name="p", pod_selector=LabelSelector(), policy_types=frozenset({Direction.INGRESS}), ingress=(admitted,)
    )
    pods = (Pod(namespace="a", name=name, labels=Labels(), ips=(address,)) for name, address in (("s", _SERVER), ("c", _CLIENT)))
    store.apply(Update(upserted=(*pods, policy), ignored={}, observed_ns=0))
    builder = SnapshotBuilder()
    builder.apply(Compiler(store, is_local=lambda pod: pod.name == "s").everything(with_node_addresses=False))
    return builder.encoded(version=1, created_ns=0)


def _packet(source: AddressKey, port: int) -> _Packet:
    """A TCP SYN to the server. Source: RFC 791."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 64, 6, 0)
    ports = struct.pack("!HH", 40000, port)
    return _Packet(head + packed_address(source) + packed_address(_SERVER) + ports + bytes(16))


def _packet_costs(rounds: int) -> None:
    snapshot = _snapshot()
    off, on = _Context(snapshot, flows=False), _Context(snapshot, flows=True)
    known = [_packet(_CLIENT, 1000 + number) for number in range(_KNOWN)]
    rng = random.Random(1)
    for context in (off, on):
        context.cpu_ns(known, 100)
    differences: dict[str, list[tuple[float, float]]] = {"known connection": [], "new connection each": []}
    for _round in range(rounds):
        times = KNOWN_PACKETS // _KNOWN
        differences["known connection"].append((off.cpu_ns(known, times), on.cpu_ns(known, times)))
        cold = [
            _packet(AddressKey(_CLIENT[:12] + rng.randbytes(4)), rng.randrange(1, 1 << 16)) for _number in range(2 * COLD_PACKETS)
        ]
        differences["new connection each"].append((off.cpu_ns(cold[:COLD_PACKETS], 1), on.cpu_ns(cold[COLD_PACKETS:], 1)))
    for name, pairs in differences.items():
        more = sorted(with_flows - without for without, with_flows in pairs)
        print(
            f"{name}: {median(without for without, _with in pairs):,.0f} ns a packet without flows; "
            f"with them {median(more):+,.0f} ns ({more[0]:+,.0f} to {more[-1]:+,.0f}), {rounds} rounds"
        )


def _table_memory() -> None:
    pods = [
        FlowEnd(f"10.{number >> 8}.{number & 255}.1", "shop", f"web-{number}", Labels(app="web", part=str(number % 7)))
        for number in range(2000)
    ]
    rules = [RuleDecision(Direction.INGRESS, Tier.NETWORK_POLICY, f"shop/p{number}", 0, Action.ACCEPT) for number in range(200)]
    gc.collect()
    tracemalloc.start()
    table = FlowTable("node", RECORDS, 0.0)
    windows = HISTORY_S // WINDOW_S
    for number in range(RECORDS):
        start_s = number // (RECORDS // windows + 1) * WINDOW_S
        source, destination = pods[number * 7 % len(pods)], pods[(number * 13 + 1) % len(pods)]
        flow = Flow(source, destination, "TCP", number % 60000, FlowVerdict.ACCEPT, None, rules[number % len(rules)])
        table.add(flow, start_s + 1.0, start_s + 2.0, 3)
    gc.collect()
    print(f"flow table: {tracemalloc.get_traced_memory()[0] / 1e6:.1f} MB with {table.records} records, all of different flows")
    tracemalloc.stop()


def _scrape(rounds: int) -> None:
    counters = PolicyCounters(PolicyMetrics.RULE)
    for number in range(POLICIES):
        policy = f"ns-{number % 50}/policy-{number}"
        for position in range(RULES):
            rule = RuleDecision(Direction.INGRESS, Tier.NETWORK_POLICY, policy, position, Action.ACCEPT)
            counters.add(Reasons(is_accept=True, ingress=rule), 1)
        counters.add(Reasons(is_accept=False, ingress=Isolation(Direction.INGRESS, (policy,))), 1)
    registry = CollectorRegistry()
    registry.register(PolicyCollector(counters))
    times_ms = []
    for _round in range(rounds):
        started_s = time.process_time()
        expose(registry)
        times_ms.append((time.process_time() - started_s) * 1000)
    print(f"scrape: {median(times_ms):.0f} ms for {len(counters.counts)} series of {POLICIES} policies with {RULES} rules")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"rounds (default {ROUNDS})")
    rounds: int = parser.parse_args().rounds
    _packet_costs(rounds)
    _table_memory()
    _scrape(rounds)


if __name__ == "__main__":
    main()
