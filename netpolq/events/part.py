"""The Events of denied connections as one part of the supervisor: what is counted here, `netpolq.events.writer` writes."""

import secrets
import time

from netpolq.events.limits import Limits
from netpolq.events.series import PodIdentity
from netpolq.events.table import EventTable
from netpolq.flows.record import Flow
from netpolq.store import Store


class DenialEvents:
    """Series of denials, and what became of their Events. `node`: of this agent; pods of others have no Events of it.

    `written`, `failed`: requests. `problem`: why Events are not written at the moment, or None.
    """

    def __init__(self, store: Store, node: str, limits: Limits | None = None) -> None:
        self._store = store
        self.node = node
        self.table = EventTable(self._local_pod, lambda: secrets.randbits(64), time.monotonic(), limits)
        self.written = 0
        self.failed = 0
        self.problem: str | None = None

    def _local_pod(self, namespace: str, name: str) -> PodIdentity | None:
        pod = self._store.pods.get((namespace, name))
        return None if pod is None or pod.node_name != self.node else PodIdentity(namespace, name, pod.created)

    def offer(self, flow: Flow, first_s: float, last_s: float, connections: int) -> None:
        """Count connections, accepted ones too. Neither blocks nor raises; called in the thread of the event loop."""
        self.table.note(flow, first_s, last_s, connections, time.monotonic())

    def as_mapping(self) -> dict[str, int]:
        """Events by what became of them."""
        return {"written": self.written, "suppressed": self.table.suppressed, "failed": self.failed}
