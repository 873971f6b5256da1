"""Running reflectors, one for each kind that is watched now."""

import asyncio

from collections.abc import Callable, Iterator

from netpolq.model import Kind, ObjectKey
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.reflector import Deliver, Reflector
from netpolq.sources.kubernetes.resources import Resource
from netpolq.sources.kubernetes.timing import Timing


class Reflectors:
    """Starts reflectors as tasks of a group, and stops them. Each calls `deliver`."""

    def __init__(self, group: asyncio.TaskGroup, connection: Connection, deliver: Deliver, timing: Timing) -> None:
        self._group = group
        self._connection = connection
        self._deliver = deliver
        self._timing = timing
        self._running: dict[Kind, tuple[Resource, Reflector, asyncio.Task[None]]] = {}

    def __iter__(self) -> Iterator[Reflector]:
        return iter([reflector for _resource, reflector, _task in self._running.values()])

    def get(self, kind: Kind) -> Reflector | None:
        """The reflector of a kind, or None."""
        found = self._running.get(kind)
        return found[1] if found is not None else None

    def start(self, resource: Resource, on_not_found: Callable[[], None] | None = None) -> None:
        """Watch a resource. One of the same kind and another version is replaced, and its objects stay in force until the new one is
        complete. Does nothing if the resource is watched already.
        """
        running = self._running.get(resource.kind)
        if running is not None and running[0] == resource:
            return
        known = self.stop(resource.kind)
        reflector = Reflector(resource, self._connection, self._deliver, self._timing, known=known, on_not_found=on_not_found)
        self._running[resource.kind] = resource, reflector, self._group.create_task(reflector.run())

    def stop(self, kind: Kind) -> frozenset[ObjectKey]:
        """Stop watching a kind. Returns the keys of its known objects."""
        running = self._running.pop(kind, None)
        if running is None:
            return frozenset()
        _resource, reflector, task = running
        task.cancel()
        return reflector.known
