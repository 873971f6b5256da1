"""A cluster source that runs against the test API server, and the objects that it reads there."""

import asyncio

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from netpolq.model import Update
from netpolq.sources.decode.decoder import Ignored, decode
from netpolq.sources.kubernetes.source import ClusterSource
from netpolq.sources.kubernetes.timing import Timing
from netpolq.store import Store
from tests.support.apiserver import (
    RESOURCES,
    ApiServer,
    Body,
)
from tests.support.compiled import Compilation

HURRIED = Timing(
    page_objects=3,
    request_s=1.0,
    watch_s=(2.0, 4.0),
    idle_s=0.8,
    initial_events_s=1.0,
    first_delay_s=0.02,
    max_delay_s=0.2,
    relist_s_per_object=0.01,
    max_relist_s=0.5,
    discovery_s=(0.1, 0.2),
    absence_s=0.05,
    nodes_s=0.5,
)
"""Short time limits: minutes in a cluster are a second in a test."""


def namespace(name: str, **labels: str) -> Body:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, address: str, *, namespace: str = "shop", **labels: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def policy(name: str, app: str, *, namespace: str = "shop") -> Body:
    peer = {"podSelector": {"matchLabels": {"app": app}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {}, "ingress": [{"from": [peer]}], "policyTypes": ["Ingress"]},
    }


def store_of(server: ApiServer) -> Store:
    """The objects that a direct read of the server's state returns."""
    store = Store()
    bodies = [
        {**body, "kind": resource.kind, "apiVersion": resource.api_version}
        for resource in RESOURCES
        for body in server.objects(resource).values()
    ]
    decoded = [decode(body) for body in bodies]
    store.apply(Update(upserted=tuple(item for item in decoded if not isinstance(item, Ignored)), ignored={}, observed_ns=0))
    return store


class Reader:
    """Collects the updates of a source."""

    def __init__(self, source: ClusterSource) -> None:
        self.source = source
        self.store = Store()
        self.compilation = Compilation(self.store)
        self.updates: list[Update] = []

    def deliver(self, update: Update) -> None:
        self.updates.append(update)
        self.store.apply(update)
        self.compilation.update()

    def agrees_with(self, server: ApiServer) -> bool:
        expected = store_of(server)
        return self.store.synced and (self.store.namespaces, self.store.pods, self.store.policies) == (
            expected.namespaces,
            expected.pods,
            expected.policies,
        )


@asynccontextmanager
async def reading(kubeconfig: Path, timing: Timing = HURRIED) -> AsyncIterator[Reader]:
    reader = Reader(ClusterSource(str(kubeconfig), timing))
    task = asyncio.create_task(reader.source.run(reader.deliver))
    try:
        yield reader
    finally:
        if task.done():
            await task  # with any exception
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def fill(server: ApiServer) -> None:
    for name in ("shop", "ops"):
        server.put(namespace(name, team=name))
    for number in range(8):
        server.put(pod(f"pod-{number}", f"10.0.0.{number + 1}", app=f"app-{number % 3}"))
    server.put(policy("web", "app-1"))


def touch_every_kind(server: ApiServer) -> None:
    """Make one change of each kind: its events show the reflector the history of the server."""
    server.put(namespace("ops", team="touched"))
    server.put(pod("touched", "10.0.0.90"))
    server.put(policy("touched", "app-2", namespace="ops"))
