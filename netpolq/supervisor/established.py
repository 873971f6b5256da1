"""Strict mode: applies policy changes to established connections.

When a version is in force, it evaluates the accepted connections again that it may decide differently. Those it denies lose their accepted
bit. Their next packet, in either direction, then goes to a worker like that of a new connection, and the worker drops it. No conntrack
entry is deleted, so a connection continues if policies allow it again in time.

Connections without the accepted bit are skipped: a worker evaluates their next packet anyway.
"""

import asyncio
import logging
import os
import time

from collections.abc import Callable, Collection

from netpolq.addresses import AddressKey
from netpolq.dataplane.conntrack import Cleared, Connection, clear_accepted
from netpolq.enums import ConnectionLabel
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from netpolq.snapshot.memfd import map_trusted

_MAX_ADDRESSES = 4096
"""Maximum number of changed addresses kept; with more, all connections are evaluated."""

_RETRY_S = 0.2

log = logging.getLogger("strict")


class StrictMode:
    """Evaluates established connections. `on_pass` is called with the seconds of each pass over the conntrack table.

    `examined`: connections evaluated so far; `denied`: those of them that lost the bit. `problem`: why the last pass over the conntrack
    table failed, or None. `done_version`: a version by which all connections have been evaluated.
    """

    def __init__(self, *, ct_label: int, on_pass: Callable[[float], None]) -> None:
        self._ct_label = ct_label
        self._on_pass = on_pass
        self._descriptor = -1
        self._published: list[tuple[int, Collection[bytes] | None]] = []
        self._about: set[AddressKey] | None = set()  # addresses whose connections are due; None: all
        self._in_force_version = 0
        self._work = asyncio.Event()
        self.done_version = 0
        self.examined = 0
        self.denied = 0
        self.problem: str | None = None

    def published(self, version: int, changed: Collection[bytes] | None, descriptor: int) -> None:
        """A snapshot was published. `changed`: addresses whose connections it may evaluate differently; None: all.

        The caller still owns the descriptor.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.dup(descriptor)
        self._published.append((version, changed))

    def in_force(self, version: int) -> None:
        """This version is in force: no worker uses an older one."""
        if version <= self._in_force_version:
            return
        self._in_force_version = version
        while self._published and self._published[0][0] <= version:
            _version, changed = self._published.pop(0)
            self._add(None if changed is None else {AddressKey(key) for key in changed})
        self._work.set()

    def suspect_all(self) -> None:
        """Schedule all connections: some may have been accepted against the policies."""
        self._add(None)
        self._work.set()

    def _add(self, about: set[AddressKey] | None) -> None:
        if self._about is not None and about is not None and len(self._about) + len(about) <= _MAX_ADDRESSES:
            self._about |= about
        else:
            self._about = None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            if self._descriptor < 0 or not self._in_force_version:
                continue
            version, about, self._about = self._in_force_version, self._about, set()
            if about is None or about:
                try:
                    await self._evaluate(about)
                except InterruptedError:
                    self._add(about)  # the table changed its size while it was read
                    self._work.set()
                    continue
                except OSError as error:
                    self._add(about)
                    if self.problem is None:
                        log.error("cannot evaluate established connections: %s; trying again", error.strerror or error)
                    self.problem = str(error.strerror or error)
                    await asyncio.sleep(_RETRY_S)
                    self._work.set()
                    continue
            self.problem = None
            self.done_version = version

    async def _evaluate(self, about: set[AddressKey] | None) -> None:
        started = time.perf_counter()
        # The newest snapshot may be newer than the one in force. What it denies will be denied soon anyway. What it newly allows is
        # evaluated at the next packet, if at all.
        cleared = await asyncio.to_thread(_evaluate, self._ct_label, os.dup(self._descriptor), about)
        self._on_pass(time.perf_counter() - started)
        self.examined += cleared.examined
        self.denied += cleared.cleared
        if cleared.cleared:
            log.info("%d of %d established connections are denied from now on", cleared.cleared, cleared.examined)


def _evaluate(ct_label: int, descriptor: int, about: set[AddressKey] | None) -> Cleared:
    try:
        view = map_trusted(descriptor)
    finally:
        os.close(descriptor)
    resolver = CachedEvaluator(view)

    def is_denied(connection: Connection) -> bool:
        return not resolver.answer(*connection).evaluation.verdict

    try:
        return clear_accepted(ct_label + ConnectionLabel.ACCEPTED, is_denied, about)
    finally:
        view.close()
