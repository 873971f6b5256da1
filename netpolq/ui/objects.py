"""The objects of a cluster, kept for the answers of the page, and read again when they are older than half a minute and asked for."""

import asyncio
import time

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from netpolq.errors import NetpolqError
from netpolq.explain.known import Known, Others
from netpolq.flows.record import time_text
from netpolq.model import Update
from netpolq.policy.excerpt import everything
from netpolq.store import Store
from netpolq.ui.policies import ShownPolicy, shown_policies

MAX_AGE_S = 30.0
_PAUSE_S = 5.0
"""After a failure, objects are not asked for again before."""

ReadObjects = Callable[[Sequence[str] | None], Awaitable[Known]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Objects as they were at `read_s` (Unix time). They are never changed: questions that add to them get a copy."""

    known: Known
    read_s: float
    policies: tuple[ShownPolicy, ...]

    @property
    def line(self) -> str:
        """Which state of which objects this is."""
        what = self.known.origin.line or self.known.origin.where
        return f"{what}; read at {time_text(self.read_s)}"


class CachedObjects:
    """Reads objects, one reading at a time. `generation` changes with each reading. `problem`: why the last one failed, or empty."""

    def __init__(self, read: ReadObjects) -> None:
        self._read = read
        self._held: Held | None = None
        self._reading: asyncio.Task[None] | None = None
        self._tried_s = 0.0
        self.generation = 0
        self.problem = ""

    @property
    def held(self) -> Held | None:
        """The objects that are there, of whatever age; asks for newer ones."""
        self.refresh()
        return self._held

    def refresh(self) -> None:
        """Begin to read, if the objects are too old and are not being read."""
        now_s = time.monotonic()
        age_s = MAX_AGE_S if self._held is None else time.time() - self._held.read_s
        is_due = age_s >= MAX_AGE_S and (not self.problem or now_s - self._tried_s >= _PAUSE_S)
        if is_due and (self._reading is None or self._reading.done()):
            self._tried_s = now_s
            self._reading = asyncio.create_task(self._read_all())

    async def first(self) -> None:
        """Wait for the first reading, or for the present one if all before have failed."""
        self.refresh()
        if self._held is None and self._reading is not None:
            await asyncio.shield(self._reading)

    async def get(self) -> Held:
        """Return the objects, also if they are stale; waits for the first reading only. Raises `NetpolqError` if it fails."""
        await self.first()
        if self._held is None:
            raise NetpolqError(self.problem or "there are no objects yet; ask again in a moment")
        return self._held

    async def _read_all(self) -> None:
        try:
            known = await self._read(None)
        except NetpolqError as error:
            self.problem = str(error)
            self.generation += 1
            return
        shown = await asyncio.to_thread(shown_policies, known)
        self._held = Held(known=known, read_s=time.time(), policies=shown)
        self.problem = ""
        self.generation += 1

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def copy_of(known: Known) -> Known:
    """The same objects, to which a question may add."""
    part = everything(known.store)
    store = Store()
    rejections, ignored = known.store.rejections, known.store.ignored
    store.apply(Update(upserted=tuple(part.objects), rejections=rejections, ignored=ignored, observed_ns=0))
    for address, names in part.names.items():
        store.set_names(address, names)
    others = known.others
    if others is not None:
        others = Others(
            services=dict(others.services),
            slices={name: list(slices) for name, slices in others.slices.items()},
            workloads=dict(others.workloads),
            rejections=list(others.rejections),
            missing=dict(others.missing),
            synthetic=dict(others.synthetic),
        )
    return replace(known, store=store, others=others)
