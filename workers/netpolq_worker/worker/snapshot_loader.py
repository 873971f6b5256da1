"""The loader of snapshots in a worker. The worker refuses a snapshot that it cannot read, and goes on with the one it has."""

import logging
import os

from netpolq.errors import SnapshotError
from netpolq.ipc.channel import Channel, Refusal
from netpolq.snapshot.memfd import map_trusted
from netpolq_worker.worker.flow_cache import FlowCache

log = logging.getLogger("worker")


class SnapshotLoader:
    """Loads the newest readable snapshot into the flow cache, and reports refusals to the pool.

    `changed`: what the newest one has changed, compared with the one that was in use before it; None: everything.
    """

    def __init__(self, flow_cache: FlowCache, channel: Channel) -> None:
        self._flow_cache = flow_cache
        self._channel = channel
        self._slot: int | None = None
        self._refused: tuple[int, str] | None = None
        self.changed: tuple[bytes, ...] | None = None

    def serve(self, slot: int) -> None:
        """Report refusals for this slot from now on. A standby worker has no slot: it reports an earlier refusal now."""
        self._slot = slot
        self._report_refusal()

    def load(self, version: int, changed: tuple[bytes, ...] | None, descriptor: int | None) -> bool:
        """Evaluate with a snapshot from now on. Returns False if it is refused. `changed` as in `Publish`. Closes the descriptor.

        `descriptor` None: it was lost in transit, because this process has used up its descriptors.
        """
        before = self._flow_cache.view
        try:
            if descriptor is None:
                raise SnapshotError("it came without its descriptor: this process has no room for another")
            view = map_trusted(descriptor)
            if view.version != version:
                raise SnapshotError(f"version {view.version} came as version {version}")
            # If this process has refused or missed the version before, it cannot determine what has changed since the one that it has.
            is_next = before is not None and version == before.version + 1
            self.changed = changed if is_next and self._refused is None else None
            self._flow_cache.load(view, self.changed)
        except (SnapshotError, OSError) as error:
            self._refused = version, str(error)
            self._report_refusal()
            return False
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self._refused = None
        log.debug("%s evaluates with snapshot %d", "standby worker" if self._slot is None else f"worker {self._slot}", version)
        return True

    def _report_refusal(self) -> None:
        if self._slot is not None and self._refused is not None:
            self._channel.send(Refusal(self._slot, *self._refused))
