"""The control plane without workers: store, compiler, builder and sealed snapshots, with the duration of each step."""

import os
import time

from collections.abc import Callable, Iterable, Iterator
from mmap import ACCESS_READ, mmap

from netpolq.model import Object, ObjectKey, Pod, Update
from netpolq.policy.compiler import Compiler
from netpolq.snapshot import memfd, sections
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.layout import Section
from netpolq.store import Store


class ControlPlane:
    """Compiles updates and seals snapshots. `is_local`: the pods to compile programs for. `clock`: the seconds that an event takes."""

    def __init__(self, is_local: Callable[[Pod], bool], clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.store = Store()
        self._compiler = Compiler(self.store, is_local=is_local)
        self._builder = SnapshotBuilder()
        self._version = 0

    def compile(self) -> Iterator[None]:
        """Compile what changed in the store, in steps."""
        for delta in self._compiler.steps():
            self._builder.apply(delta)
            yield

    def publish(self) -> int:
        """Seal a snapshot and close it. Returns its size in bytes."""
        descriptor = self._seal()
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
        return size

    def section_bytes(self) -> dict[Section, int]:
        """Seal a snapshot and close it. Returns the size of each of its sections in bytes."""
        descriptor = self._seal()
        with mmap(descriptor, 0, access=ACCESS_READ) as snapshot:
            contents = sections.check(snapshot, is_validated=True)
        os.close(descriptor)
        return {section: info.length for section, info in contents.sections.items()}

    def event(self, update: Update) -> tuple[float, float]:
        """Seconds to compile an update, and to publish the result."""
        started = self._clock()
        self.store.apply(update)
        for _ in self.compile():
            pass
        self._compiler.take_changed()
        compiled = self._clock()
        self.publish()
        return compiled - started, self._clock() - compiled

    def _seal(self) -> int:
        self._version += 1
        return memfd.seal(*self._builder.pieces(version=self._version, created_ns=time.time_ns()))


def update_of(upserted: Iterable[Object] = (), deleted: Iterable[ObjectKey] = ()) -> Update:
    """An update that a source notices now."""
    return Update(upserted=tuple(upserted), deleted=tuple(deleted), ignored={}, observed_ns=time.monotonic_ns())
