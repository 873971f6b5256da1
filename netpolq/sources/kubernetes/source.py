"""The Kubernetes API source: a reflector for each kind, one stream of updates.

    discovery ── optional kinds ──► reflectors ── changes ──► first sync ──► node peers ──► update
                                        ▲                                       │
                                        └────────── nodes, while needed ────────┘

The first update follows when all kinds are complete, because an incomplete state may lack policies.
"""

import asyncio
import time

from collections.abc import Callable, Iterable, Mapping

from netpolq.hold.ranges import PodRange
from netpolq.model import ObjectKey, Rejection, Update
from netpolq.names.resolvers import DnsService
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.discovery import Discovery, Served
from netpolq.sources.kubernetes.dns_services import DnsServices
from netpolq.sources.kubernetes.node import NodeReader
from netpolq.sources.kubernetes.node_peers import NodePeers
from netpolq.sources.kubernetes.policy_report import PolicyReport
from netpolq.sources.kubernetes.reflectors import Reflectors
from netpolq.sources.kubernetes.resources import NODES, OPTIONAL, RESOURCES
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
        self._discovery = Discovery(self._connection, self._on_served, self._timing)
        self._group = asyncio.TaskGroup()
        self._reflectors = Reflectors(self._group, self._connection, self._take, self._timing)
        self._deliver: Deliver = lambda _update: None
        self._before_sync: Changes | None = Changes()
        self._node_peers = NodePeers()
        self._nodes_limit: asyncio.TimerHandle | None = None
        self._has_waited_for_nodes = False
        self._rejections: dict[ObjectKey, Rejection] = {}
        self._reports: dict[ObjectKey, PolicyReport] = {}
        self._address = ""

    @property
    def location(self) -> str:
        """The API server's URL; empty before the connection is open."""
        return self._address

    @property
    def contact_ns(self) -> int | None:
        """The oldest of the reflectors' last contacts (monotonic); None until each has had one. After the first sync, a kind that has just
        come does not count before its first contact.
        """
        contacts = [reflector.contact_ns for reflector in self._reflectors]
        known = [contact for contact in contacts if contact is not None]
        return min(known) if known and (self._before_sync is None or len(known) == len(contacts)) else None

    @property
    def problems(self) -> list[str]:
        """The current problems of the reflectors and of discovery, sorted."""
        found = {reflector.problem for reflector in self._reflectors} | {self._discovery.problem}
        if self._has_waited_for_nodes and self._before_sync is None and not self._are_nodes_complete:
            used_by = ", ".join(str(key) for key in sorted(self._node_peers.used_by)[:_MAX_NAMED])
            found.add(f"the nodes are not known, so node peers match nothing: {used_by}")
        return sorted(problem for problem in found if problem is not None)

    @property
    def node_exists(self) -> bool | None:
        """Whether the server has a Node of this agent's name; None if that is not known."""
        return None if self._node is None else self._node.exists

    @property
    def pod_ranges(self) -> tuple[PodRange, ...]:
        """The pod ranges of this agent's Node; empty while unknown, or if the Node has none."""
        return () if self._node is None else self._node.pod_ranges

    @property
    def policy_reports(self) -> Mapping[ObjectKey, PolicyReport]:
        """What is known of each cluster-wide policy. A report is replaced when its policy changes."""
        return self._reports

    @property
    def relists(self) -> int:
        """The number of complete states requested so far, over all kinds that are watched now."""
        return sum(reflector.relists for reflector in self._reflectors)

    async def follow_dns_services(self, take: Callable[[tuple[DnsService, ...]], None]) -> None:
        """See `Source.follow_dns_services`."""
        await DnsServices(self._connection, take, self._timing).run()

    async def run(self, deliver: Deliver) -> None:
        """See `Source.run`."""
        await self._connection.open()
        self._address = self._connection.address
        self._deliver = deliver
        try:
            async with self._group:
                if self._node is not None:
                    self._group.create_task(self._node.run())
                for resource in RESOURCES:
                    self._reflectors.start(resource)
                self._group.create_task(self._discovery.run())
        finally:
            self._stop_waiting_for_nodes()
            await self._connection.close()

    # --- what is watched --------------------------------------------------------------------------------------------------------

    def _on_served(self, served: Served) -> None:
        gone: list[ObjectKey] = []
        for kind in {resource.kind for resource in OPTIONAL}:
            resource = served.get(kind)
            if resource is not None:
                self._reflectors.start(resource, self._discovery.ask_again)
            else:
                gone.extend(self._reflectors.stop(kind))
        self._take(_removed(gone))

    def _watch_nodes_if_needed(self, changes: Changes) -> None:
        """Start or stop the reflector of the nodes. Adds the removal of the nodes to the changes."""
        is_watched = self._reflectors.get(NODES.kind) is not None
        if self._node_peers.used_by and not is_watched:
            self._reflectors.start(NODES)
            self._nodes_limit = asyncio.get_running_loop().call_later(self._timing.nodes_s, self._end_wait_for_nodes)
        elif is_watched and not self._node_peers.used_by:
            self._stop_waiting_for_nodes()
            changes.merge(_removed(self._reflectors.stop(NODES.kind)))

    @property
    def _are_nodes_complete(self) -> bool:
        nodes = self._reflectors.get(NODES.kind)
        return nodes is None or nodes.is_synced

    def _end_wait_for_nodes(self) -> None:
        self._has_waited_for_nodes = True
        self._take(Changes())

    def _stop_waiting_for_nodes(self) -> None:
        self._has_waited_for_nodes = False
        if self._nodes_limit is not None:
            self._nodes_limit.cancel()

    # --- changes ----------------------------------------------------------------------------------------------------------------

    def _take(self, changes: Changes) -> None:
        observed_ns = time.monotonic_ns()
        self._node_peers.note(changes)
        self._watch_nodes_if_needed(changes)
        is_first = self._before_sync is not None
        if self._before_sync is not None:
            self._before_sync.merge(changes)
            if not (self._discovery.is_known and all(reflector.is_synced for reflector in self._reflectors)):
                return
            changes, self._before_sync = self._before_sync, None
        self._keep_reports(changes)
        if self._are_nodes_complete or self._has_waited_for_nodes:
            self._node_peers.release(changes)
        else:
            self._node_peers.hold_back(changes)
        self._node_peers.drop_unchanged(changes)
        if not (is_first or changes):
            return
        self._deliver(
            Update(
                upserted=tuple(changes.upserted.values()),
                deleted=tuple(changes.deleted),
                rejections=tuple(self._rejections.values()),
                ignored={},
                observed_ns=observed_ns,
            )
        )

    def _keep_reports(self, changes: Changes) -> None:
        for key in (*changes.deleted, *changes.upserted):
            self._rejections.pop(key, None)
        for key in changes.deleted:
            self._reports.pop(key, None)
        self._rejections.update(changes.rejections)
        self._reports.update(changes.reports)


_MAX_NAMED = 5
"""Maximum number of policies that a problem names."""


def _removed(keys: Iterable[ObjectKey]) -> Changes:
    changes = Changes()
    for key in keys:
        changes.remove(key)
    return changes
