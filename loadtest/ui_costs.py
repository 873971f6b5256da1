"""What the page costs: time of taking flows in, of a map and a list of flows, of their changes, and memory of the history.

`python -m loadtest.ui_costs`. 50 agents report 2,000 flows each; then 1,000 increments come between two changes, as in a busy second. All
times are CPU times of this process.
"""

import argparse
import gc
import random
import time
import tracemalloc

from collections.abc import Callable
from statistics import median

import orjson

from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.flows.record import Flow, FlowEnd, FlowRecord, FlowVerdict
from netpolq.flows.table import HISTORY_S
from netpolq.model import Labels
from netpolq.ui.api.changes import changes
from netpolq.ui.api.documents import Document
from netpolq.ui.state.filters import Filters
from netpolq.ui.state.flow_list import flow_list
from netpolq.ui.state.graph import graph
from netpolq.ui.state.history import History
from netpolq.ui.state.hits import hits

AGENTS = 50
FLOWS = 2000
WORKLOADS = 600
PODS_OF_WORKLOAD = 10
PEERS = 8
"""Workloads that a workload connects to. The worst case is all."""

MINUTES = 5
INCREMENTS = 1000
ROUNDS = 9

_START_S = 1_700_000_000.0


def made_up_records(rng: random.Random, agents: int, flows: int, peers: int) -> list[FlowRecord]:
    """A record for each of many flows: pods of a workload connect to those of `peers` others."""
    pods = [
        FlowEnd(
            f"10.{number >> 12 & 15}.{number >> 6 & 63}.{number & 63}",
            f"ns-{number // PODS_OF_WORKLOAD % 30}",
            f"app-{number // PODS_OF_WORKLOAD}-7d9f8b6c5d-x{number}",
            Labels(
                {
                    "app": f"app-{number // PODS_OF_WORKLOAD}",
                    "pod-template-hash": "7d9f8b6c5d",
                    "team": str(number // PODS_OF_WORKLOAD % 7),
                }
            ),
        )
        for number in range(WORKLOADS * PODS_OF_WORKLOAD)
    ]
    records = []
    for agent in range(agents):
        for _number in range(flows):
            source = rng.choice(pods)
            workload = (int(source.pod.split("-")[1]) * 7 + rng.randrange(peers) * 3 + 1) % WORKLOADS
            destination = pods[workload * PODS_OF_WORKLOAD + rng.randrange(PODS_OF_WORKLOAD)]
            policy = f"{destination.namespace}/{destination.pod.rsplit('-', 2)[0]}"
            port = rng.choice((80, 443))
            is_accepted = rng.random() < 0.9
            flow = Flow(
                source,
                destination,
                "TCP",
                port,
                FlowVerdict.ACCEPT if is_accepted else FlowVerdict.DENY,
                None,
                RuleDecision(Direction.INGRESS, Tier.NETWORK_POLICY, policy, port % 3, Action.ACCEPT)
                if is_accepted
                else Isolation(Direction.INGRESS, (policy,)),
            )
            seen_s = _START_S - rng.random() * 60 * MINUTES
            records.append(
                FlowRecord(
                    flow=flow,
                    node=f"node-{agent}",
                    window_start_s=seen_s,
                    window_s=15,
                    first_seen_s=seen_s,
                    last_seen_s=seen_s,
                    connections=3,
                )
            )
    return records


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Median CPU time of some work."""
    times = []
    for _ in range(rounds):
        started_s = time.process_time()
        work()
        times.append((time.process_time() - started_s) * 1000)
    return median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"rounds (default {ROUNDS})")
    parser.add_argument("--agents", type=int, default=AGENTS, metavar="N", help=f"agents (default {AGENTS})")
    arguments = parser.parse_args()
    for peers in (PEERS, WORKLOADS):
        print(f"each of {WORKLOADS} workloads connects to {peers} others:")
        measure(arguments.agents, FLOWS, peers, arguments.rounds)


def measure(agents: int, flows: int, peers: int, rounds: int) -> None:
    """Measure and print."""
    rng = random.Random(1)
    records = made_up_records(rng, agents, flows, peers)
    gc.collect()
    tracemalloc.start()
    history = _history(records)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"  memory: {size / 1e6:.0f} MB for {len(history.flows):,} flows and {len(history.links):,} links between workloads")
    print(f"  taking in: {cpu_ms(lambda: _history(records), 1) / len(records) * 1000:.1f} µs a record")
    gc.collect()
    for name, filters in (
        ("five minutes", Filters()),
        ("an hour", Filters(since_s=HISTORY_S)),
        ("text of pods", Filters(text="7d9f8b6c5d-x12")),
    ):
        print(f"  map, {name}: {cpu_ms(lambda filters=filters: _map(history, filters), rounds):.0f} ms")  # type: ignore[misc]
        print(f"  flows, {name}: {cpu_ms(lambda filters=filters: _flows(history, filters), rounds):.0f} ms")  # type: ignore[misc]
    for name, document in (("map", _map), ("flows", _flows)):
        _change(history, records, name, document, rounds)
    print(f"  hits of rules: {cpu_ms(lambda: hits(history, _START_S), rounds):.0f} ms")
    print(f"  what is done once a minute: {cpu_ms(lambda: history.expire(_START_S), rounds):.0f} ms")


def _change(
    history: History, records: list[FlowRecord], name: str, document: Callable[[History, Filters], Document], rounds: int
) -> None:
    rng = random.Random(2)
    before = document(history, Filters())
    taken_ms, change_ms, sizes = [], [], []
    for _ in range(rounds):
        started_s = time.process_time()
        for record in rng.choices(records, k=INCREMENTS):
            history.add(record, _START_S)
        added_s = time.process_time()
        after = document(history, Filters())
        sizes.append(len(orjson.dumps(changes(before, after))))
        change_ms.append((time.process_time() - added_s) * 1000)
        taken_ms.append((added_s - started_s) * 1000)
        before = after
    print(
        f"  change of {name} after {INCREMENTS:,} increments: {median(change_ms):.0f} ms for {median(sizes) / 1000:.0f} kB, "
        f"and {median(taken_ms):.0f} ms for taking them in"
    )


def _history(records: list[FlowRecord]) -> History:
    history = History()
    for record in records:
        history.add(record, _START_S)
    return history


def _map(history: History, filters: Filters) -> Document:
    found = graph(history, filters, _START_S)
    return Document({"connections": found.connections}, {"nodes": found.nodes, "edges": found.edges})


def _flows(history: History, filters: Filters) -> Document:
    return Document({}, {"flows": flow_list(history, filters, _START_S).flows})


if __name__ == "__main__":
    main()
