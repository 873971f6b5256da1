"""The Kubernetes API source: three reflectors, one stream of updates.

The first update follows when all kinds are complete, because an incomplete state may lack policies.
"""

import asyncio
import time

from netpolq.hold.ranges import PodRange
from netpolq.model import ObjectKey, Rejection, Update
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.node import NodeReader
from netpolq.sources.kubernetes.reflector import Reflector
from netpolq.sources.kubernetes.resources import RESOURCES
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import Changes
from netpolq.sources.source import Deliver


class ClusterSource:
    """A `Source`. `kubeconfig`: path, or empty for the service account of the pod. `node_name`: of this agent's node, or empty
    to skip the request.
    """

    kind = "cluster"

    def __init__(self, kubeconfig: str, timing: Timing | None = None, *, node_name: str = "") -> None:
        self._connection = Connection(kubeconfig)
        self._node = NodeReader(node_name, self._connection, lambda: self._before_sync is None) if node_name else None
        self._timing = timing if timing is not None else Timing()
        self._reflectors: list[Reflector] = []
        self._before_sync: Changes | None = Changes()
        self._rejections: dict[ObjectKey, Rejection] = {}
        self._address = ""

    @property
    def location(self) -> str:
        """The API server's URL; empty before the connection is open."""
        return self._address

    @property
    def contact_ns(self) -> int | None:
        """The oldest of the reflectors' last contacts (monotonic); None until each has had one."""
        contacts = [reflector.contact_ns for reflector in self._reflectors]
        known = [contact for contact in contacts if contact is not None]
        return min(known) if known and len(known) == len(contacts) else None

    @property
    def problems(self) -> list[str]:
        """The current problems of the reflectors, sorted."""
        return sorted({reflector.problem for reflector in self._reflectors if reflector.problem is not None})

    @property
    def node_exists(self) -> bool | None:
        """Whether the server has a Node of this agent's name; None if that is not known."""
        return None if self._node is None else self._node.exists

    @property
    def pod_ranges(self) -> tuple[PodRange, ...]:
        """The pod ranges of this agent's Node; empty while unknown, or if the Node has none."""
        return () if self._node is None else self._node.pod_ranges

    @property
    def relists(self) -> int:
        """The number of complete states requested so far, over all kinds."""
        return sum(reflector.relists for reflector in self._reflectors)

    async def run(self, deliver: Deliver) -> None:
        """See `Source.run`."""
        await self._connection.open()
        self._address = self._connection.address
        self._reflectors = [
            Reflector(resource, self._connection, lambda changes: self._take(changes, deliver), self._timing)
            for resource in RESOURCES
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._node is not None:
                    tasks.create_task(self._node.run())
                for reflector in self._reflectors:
                    tasks.create_task(reflector.run())
        finally:
            await self._connection.close()

    def _take(self, changes: Changes, deliver: Deliver) -> None:
        observed_ns = time.monotonic_ns()
        if self._before_sync is not None:
            self._before_sync.merge(changes)
            if not all(reflector.is_synced for reflector in self._reflectors):
                return
            changes, self._before_sync = self._before_sync, None
        for key in (*changes.deleted, *changes.upserted):
            self._rejections.pop(key, None)
        self._rejections.update(changes.rejections)
        deliver(
            Update(
                upserted=tuple(changes.upserted.values()),
                deleted=tuple(changes.deleted),
                rejections=tuple(self._rejections.values()),
                ignored={},
                observed_ns=observed_ns,
            )
        )
