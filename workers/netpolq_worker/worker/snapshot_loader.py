"""How a worker takes up a snapshot: what it cannot read it refuses, and it goes on with the one it has."""

import logging
import os

from netpolq.errors import SnapshotError
from netpolq.ipc.channel import Channel, Refusal
from netpolq.snapshot.memfd import map_trusted
from netpolq_worker.worker.flow_cache import FlowCache

log = logging.getLogger("worker")


class SnapshotLoader:
    """Has a flow_cache judge by the newest snapshot that can be read."""

    def __init__(self, flow_cache: FlowCache, channel: Channel) -> None:
        self._flow_cache = flow_cache
        self._channel = channel
        self._slot: int | None = None
        self._refused: tuple[int, str] | None = None

    def serve(self, slot: int) -> None:
        """Say in this slot's name what is refused. A spare has none, and tells only then what it has refused before."""
        self._slot = slot
        self._tell()

    def load(self, version: int, changed: tuple[bytes, ...] | None, descriptor: int | None) -> bool:
        """Judge by a snapshot from now on; False: it is refused. `changed` as in `Publish`. The descriptor is closed.

        `descriptor` None: it was lost on the way, because this process has used up its descriptors.
        """
        before = self._flow_cache.view
        try:
            if descriptor is None:
                raise SnapshotError("it came without its descriptor: this process has no room for another")
            view = map_trusted(descriptor)
            if view.version != version:
                raise SnapshotError(f"version {view.version} came as version {version}")
            # What a version has changed that was never used here (refused, or lost) is not known here.
            is_next = before is not None and version == before.version + 1
            self._flow_cache.adopt(view, changed if is_next and self._refused is None else None)
        except (SnapshotError, OSError) as error:
            self._refused = version, str(error)
            self._tell()
            return False
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self._refused = None
        log.debug("%s judges by snapshot %d", "standby worker" if self._slot is None else f"worker {self._slot}", version)
        return True

    def _tell(self) -> None:
        if self._slot is not None and self._refused is not None:
            self._channel.send(Refusal(self._slot, *self._refused))
