"""One open watch: a line of JSON for each event, bookmarks between them, and faults."""

import asyncio
import random

from contextlib import suppress
from dataclasses import dataclass

from tests.support.apiserver import status
from tests.support.apiserver.faults import CutLine, EndStream, GoSilent, Replay, SendError, SendLine, WatchFault
from tests.support.apiserver.options import WatchOptions
from tests.support.apiserver.resources import Resource
from tests.support.apiserver.store import CompactedError, Event, Store
from tests.support.apiserver.wire import Wire

_INITIAL_EVENTS_END = b',"annotations":{"k8s.io/initial-events-end":"true"}'


class _EndedError(Exception):
    """The stream ends here without an error."""


@dataclass(slots=True)
class _Due:
    """A fault, and the number of lines before it."""

    fault: WatchFault
    lines: int


class WatchStream:
    """Sends the events of one kind of objects until it is stopped, its timeout ends, or the client disconnects."""

    def __init__(
        self,
        store: Store,
        resource: Resource,
        options: WatchOptions,
        wire: Wire,
        *,
        bookmark_interval_s: float,
        timeout_s: float,
    ) -> None:
        self.resource = resource
        self._store = store
        self._options = options
        self._wire = wire
        self._bookmark_interval_s = bookmark_interval_s
        self._lives_s = options.timeout_s or timeout_s * random.uniform(1, 2)
        self._position = options.resource_version or 0
        self._changed = asyncio.Event()
        self._due: list[_Due] = []

    def wake(self) -> None:
        """Continue: the store has changed."""
        self._changed.set()

    def strike(self, fault: WatchFault) -> None:
        """Inject a fault into this stream."""
        self._due.append(_Due(fault, fault.after_lines))
        self._changed.set()

    async def run(self) -> None:
        """Send the stream. Raises `ConnectionCutError` when a fault or the client has cut the connection."""
        try:
            await self._apply_due_faults()
            if self._options.initial_events or not self._position:
                await self._send_present_state()
            elif self._position < self._store.compacted_at:
                raise CompactedError
            await self._follow()
        except CompactedError:
            refusal = status.too_old(self._position, self._store.compacted_at)
            await self._wire.write(_line(b"ERROR", refusal.body))
        except _EndedError:
            pass
        await self._wire.close()

    async def _send_present_state(self) -> None:
        version = self._store.resource_version
        for raw in self._store.snapshot(self.resource, version).raws:
            await self._send(_line(b"ADDED", self._typed(raw)))
        self._position = version
        if self._options.initial_events and self._options.bookmarks:
            await self._send(self._bookmark_line(_INITIAL_EVENTS_END))

    async def _follow(self) -> None:
        """Send changes until the timeout. It interrupts a wait, but no line."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._lives_s
        next_bookmark = loop.time() + self._bookmark_interval_s
        while True:
            self._changed.clear()
            # No change follows a version that does not exist yet, as in the real server.
            while news := self._store.events_after(self.resource, self._position):
                for event in news:
                    await self._send(self._event_line(event))
                    self._position = event.resource_version
            await self._apply_due_faults()
            now = loop.time()
            if now >= min(deadline, next_bookmark):
                await self._bookmark()
                if now >= deadline:
                    return
                next_bookmark = now + self._bookmark_interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadline, next_bookmark)):
                    await self._changed.wait()

    async def _bookmark(self) -> None:
        """Send a bookmark with the version up to which the stream is complete."""
        current = self._store.resource_version
        if self._options.bookmarks and current >= self._position and not self._store.events_after(self.resource, self._position):
            self._position = current
            await self._send(self._bookmark_line())

    async def _send(self, line: bytes) -> None:
        await self._apply_due_faults()
        for due in self._due:
            due.lines -= 1
        if broken := next((due for due in self._due if isinstance(due.fault, CutLine) and due.lines < 0), None):
            self._due.remove(broken)
            await self._wire.write(line[: len(line) // 2])
            await asyncio.sleep(0.02)  # a connection that is cut at once has not sent the buffer
            if isinstance(broken.fault, CutLine) and broken.fault.cleanly:
                raise _EndedError
            self._wire.cut()
        await self._wire.write(line)

    async def _apply_due_faults(self) -> None:
        """Apply the faults that are due before the next line."""
        for due in [due for due in self._due if due.lines <= 0 and not isinstance(due.fault, CutLine)]:
            self._due.remove(due)
            match due.fault:
                case GoSilent():
                    await asyncio.Future[None]()
                case EndStream():
                    raise _EndedError
                case SendLine(line=line):
                    await self._wire.write(line)
                case SendError(code=code, reason=reason, message=message):
                    await self._wire.write(_line(b"ERROR", status.ApiError(code, reason, message).body))
                    raise _EndedError
                case Replay(last=last, backwards=backwards):
                    events = self._store.events_until(self.resource, self._position)[-last:]
                    for event in reversed(events) if backwards else events:
                        await self._wire.write(self._event_line(event))

    def _event_line(self, event: Event) -> bytes:
        return _line(event.type.encode(), self._typed(event.now.raw))

    def _typed(self, raw: bytes) -> bytes:
        return self.resource.opening + raw[1:]

    def _bookmark_line(self, annotations: bytes = b"") -> bytes:
        metadata = b'"metadata":{"resourceVersion":"%d","creationTimestamp":null%s}' % (self._position, annotations)
        return _line(b"BOOKMARK", self.resource.opening + metadata + self.resource.rest + b"}")


def _line(type_: bytes, body: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (type_, body)
