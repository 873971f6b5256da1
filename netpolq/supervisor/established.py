"""Strict mode: applies policy changes to established connections.

When a version is in force, it evaluates the accepted connections again that it may decide differently. Those it denies lose their accepted
bit. Their next packet, in either direction, then goes to a worker like that of a new connection, and the worker drops it. No conntrack
entry is deleted, so a connection continues if policies allow it again in time.

Connections without the accepted bit are skipped: a worker evaluates their next packet anyway.

DNS connections of a pod that a policy with domain names has come to select lose the bit too: responses in accepted connections would pass
the reader by.

An address that loses a learned name keeps it here. A rule that accepts by the name accepts established connections with the address for as
long as the rule is there, and no new ones.
"""

import asyncio
import logging
import os
import time

from collections.abc import Callable, Mapping, Set

from netpolq.addresses import AddressKey
from netpolq.dataplane.conntrack import Cleared, Connection, clear_accepted
from netpolq.enums import ConnectionLabel, Verdict
from netpolq.names import DNS_PORT
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from netpolq.snapshot.extended_reader import map_extended
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.rollout_events import StrictPassDone
from netpolq.supervisor.timings import Timings

_RETRY_S = 0.2

log = logging.getLogger("strict")


class StrictMode:
    """Evaluates established connections with the newest snapshot of the publisher.

    `asking` returns the addresses of the pods whose DNS is read. `examined`: connections evaluated so far; `denied`: those of them that are
    denied, and lost the bit. `problem`: why the last pass over the conntrack table failed, or None.
    """

    def __init__(
        self,
        progress: Progress,
        publisher: Publisher,
        timings: Timings,
        *,
        asking: Callable[[], Set[AddressKey]],
        ct_label: int,
    ) -> None:
        self._progress = progress
        self._publisher = publisher
        self._timings = timings
        self._asking = asking
        self._ct_label = ct_label
        self._work = progress.subscribe()
        self.examined = 0
        self.denied = 0
        self.problem: str | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            scope = self._progress.rollout.to_examine
            if scope is None or self._publisher.newest_descriptor is None:
                continue
            about = None if scope.changed is None else {AddressKey(key) for key in scope.changed}
            try:
                if about is None or about:
                    await self._evaluate(self._publisher.newest_descriptor, about)
            except InterruptedError:
                self._work.set()  # the table changed its size while it was read
                continue
            except OSError as error:
                if self.problem is None:
                    log.error("cannot evaluate established connections: %s; trying again", error.strerror or error)
                self.problem = str(error.strerror or error)
                await asyncio.sleep(_RETRY_S)
                self._work.set()
                continue
            self.problem = None
            self._progress.send(StrictPassDone(scope.version, scope.doubts))

    async def _evaluate(self, snapshot: int, about: set[AddressKey] | None) -> None:
        started = time.perf_counter()
        # The newest snapshot may be newer than the one in force. What it denies will be denied soon anyway. What it newly allows is
        # evaluated at the next packet, if at all.
        former, asking = self._publisher.newest_former, self._asking()
        cleared = await asyncio.to_thread(_evaluate, self._ct_label, os.dup(snapshot), former, asking, about)
        self._timings.strict_pass.observe(time.perf_counter() - started)
        self.examined += cleared.examined
        self.denied += cleared.cleared
        if cleared.cleared:
            log.info("%d of %d established connections are denied from now on", cleared.cleared, cleared.examined)


def _evaluate(
    ct_label: int,
    descriptor: int,
    former: Mapping[AddressKey, frozenset[int]],
    asking: Set[AddressKey],
    about: set[AddressKey] | None,
) -> Cleared:
    """Go through the connections. Those that lose the bit only because their DNS is read count as examined, not as cleared."""
    try:
        view = map_extended(descriptor, former)
    finally:
        os.close(descriptor)
    evaluator = CachedEvaluator(view, lambda evaluation, _on_every_port: evaluation.verdict)
    read = 0

    def loses_bit(connection: Connection) -> bool:
        nonlocal read
        if evaluator.answer(*connection) is Verdict.DROP:
            return True
        is_read = connection.port == DNS_PORT and connection.source in asking
        read += is_read
        return is_read

    try:
        cleared = clear_accepted(ct_label + ConnectionLabel.ACCEPTED, loses_bit, about)
        return cleared._replace(cleared=cleared.cleared - read)
    finally:
        view.close()
