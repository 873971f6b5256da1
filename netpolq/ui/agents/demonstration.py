"""A demonstration: three agents of a made-up shop, without a cluster. One agent goes missing now and then, and returns."""

import asyncio
import random
import time

from collections.abc import Sequence
from importlib import resources

from netpolq.addresses import parse_address
from netpolq.explain import manifests
from netpolq.explain.known import Known, Origin
from netpolq.flows.table import HISTORY_S
from netpolq.supervisor.flows_report import FlowsHead
from netpolq.ui import demonstration
from netpolq.ui.agents.source import FLOWS_PERIOD_S, STATUS_PERIOD_S, SourceName
from netpolq.ui.demonstration.status import made_up_status
from netpolq.ui.demonstration.traffic import NAMES, Traffic
from netpolq.ui.policies import Policy
from netpolq.ui.state.known_agents import KnownAgents

SEED = 7
NODES = ("node-1", "node-2", "node-3")
MISSING_NODE = "node-3"
MISSING_EVERY_S, MISSING_FROM_S, MISSING_UNTIL_S = 180, 30, 60
"""The agent is missing in a part of each period."""

_MINUTE_S = 60.0
_MISSING = "no answer within 30 s (see --timeout)"


class Demonstration:
    """The made-up agents. `seed`: of everything that is random. `history_s`: for how long they have run, in whole minutes."""

    name: SourceName = "demo"
    where = "a demonstration: nothing of what is shown exists"

    def __init__(self, seed: int = SEED, history_s: int = HISTORY_S) -> None:
        self._history_s = history_s
        self._random = random.Random(seed)  # noqa: S311  # nothing secret
        self._known = _objects()
        self._traffic = Traffic(self._known, seed)
        self._packets = dict.fromkeys(NODES, 0)

    async def open(self) -> None:
        """See `Source`: there is nothing to prepare."""

    async def run(self, agents: KnownAgents) -> None:
        """See `Source`."""
        began_s = time.time()
        for number, node in enumerate(NODES):
            agents.found(node, f"netpolq-{['x7k2p', 'm9vqd', 't4wzr'][number]}")
        for back in range(self._history_s // int(_MINUTE_S), 0, -1):
            self._take(agents, began_s - back * _MINUTE_S, began_s - (back - 1) * _MINUTE_S)
            await asyncio.sleep(0)
        before_s, status_due_s = began_s, 0.0
        while True:
            now_s = time.time()
            is_missing = MISSING_FROM_S <= (now_s - began_s) % MISSING_EVERY_S < MISSING_UNTIL_S
            missing = MISSING_NODE if is_missing else ""
            for node in NODES:
                if node == missing:
                    agents.failed(node, _MISSING, now_s)
                else:
                    agents.head(node, self._head(node, agents, began_s))
            self._take(agents, before_s, now_s, missing)
            if now_s >= status_due_s:
                status_due_s = now_s + STATUS_PERIOD_S
                self._tell_status(agents, now_s, missing)
            before_s = now_s
            await asyncio.sleep(FLOWS_PERIOD_S)

    def _take(self, agents: KnownAgents, from_s: float, to_s: float, missing: str = "") -> None:
        for record in self._traffic.records(from_s, to_s):
            if record.node != missing:
                agents.flow(record, to_s)
                self._packets[record.node] += record.connections

    def _tell_status(self, agents: KnownAgents, now_s: float, missing: str) -> None:
        store = self._known.store
        objects = {
            "namespaces": len(store.namespaces),
            "pods": len(store.pods),
            "policies": len(store.policies),
            "cluster_policies": len(store.cluster_policies),
            "nodes": 0,
        }
        for node in NODES:
            if node != missing:
                pods = sum(pod.node_name == node for pod in store.pods.values())
                latency_s = round(self._random.uniform(0.009, 0.021), 4)
                records = sum(kept.node == node for kept in agents.history.flows.values())
                status = made_up_status(
                    node,
                    pods=pods,
                    packets=self._packets[node],
                    records=records,
                    latency_s=latency_s,
                    rejected=list(store.rejections),
                    objects=objects,
                )
                agents.status(node, status, now_s)

    def _head(self, node: str, agents: KnownAgents, began_s: float) -> FlowsHead:
        return FlowsHead(
            node=node,
            started_s=began_s - self._history_s,
            next=0,
            missed=0,
            records=len(agents.history.flows) // len(NODES),
            max_records=20_000,
            unrecorded=0,
            lost=0,
            dropped_early=0,
        )

    async def objects(self, ends: Sequence[str] | None) -> Known:
        """The objects of the demonstration."""
        return self._known

    async def manifest(self, policy: Policy) -> str | None:
        """The policy is written from the model, as for an agent."""
        return None


def _objects() -> Known:
    with resources.as_file(resources.files(demonstration) / "objects.yaml") as path:
        known = manifests.load(path)
    for address, names in NAMES.items():
        known.store.set_names(parse_address(address), frozenset(names))
    origin = Origin(where="the demonstration", line="of the demonstration", fields={"demonstration": True})
    return Known(store=known.store, origin=origin, others=known.others)
