"""The task that reads packets and bytes of connections while conntrack accounting is on, and nothing else while it is off.

Ended connections are read as they come, in slices of the event loop of at most a tenth of a CPU. Of more, the kernel drops and counts
events. Connections that live are read every half a minute by a thread, or less often: with at most a fiftieth of the time.
"""

import asyncio
import logging
import time

from contextlib import suppress

from netpolq.flows.conntrack_counters import EndedConnections, LivingConnections, is_accounting_on
from netpolq.flows.traffic import Traffic

TOUR_S = 30.0
_MAX_TOURS_SHARE = 0.02
_CHECK_S = 10.0
"""How often accounting is looked for while it is off."""

_SLICE_S = 0.004
_BETWEEN_SLICES_S = 0.04
_IDLE_S = 0.25
_PORTION_S = 0.003

log = logging.getLogger("flows")


class TrafficReader:
    """Reads for `traffic`. `label_bit`: that of acceptance. `problem`: why nothing can be read though accounting is on, or None."""

    def __init__(self, traffic: Traffic, label_bit: int, *, tour_s: float = TOUR_S) -> None:
        self.traffic = traffic
        self._label_bit = label_bit
        self._tour_s = tour_s
        self._ended: EndedConnections | None = None
        self._missed_before = 0
        self.problem: str | None = None

    @property
    def is_on(self) -> bool:
        """Whether packets and bytes are counted."""
        return self.traffic.is_on

    @property
    def missed(self) -> int:
        """Connections that have ended without having been read."""
        return self._missed_before + (0 if self._ended is None else self._ended.missed)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                if not is_accounting_on():
                    self._stop()
                    self.problem = None
                    await asyncio.sleep(_CHECK_S)
                    continue
                try:
                    await self._read()
                except InterruptedError:  # the table changed its size while it was read
                    continue
                except OSError as error:
                    if self.problem is None:
                        log.error("cannot read packets and bytes of connections: %s; trying again", error.strerror or error)
                    self.problem = str(error.strerror or error)
                    self._stop()
                    await asyncio.sleep(_CHECK_S)
        finally:
            self._stop()

    async def _read(self) -> None:
        """Read until the next look at the settings. Raises `OSError`."""
        if self._ended is None:
            self._ended = EndedConnections()
            self.traffic.is_on = True
            log.info("packets and bytes of flows are counted: conntrack accounting is on")
        self.problem = None
        started_s = time.monotonic()
        await self._tour(self._ended)
        took_s = time.monotonic() - started_s
        await self._listen(self._ended, max(self._tour_s, took_s / _MAX_TOURS_SHARE))

    async def _tour(self, ended: EndedConnections) -> None:
        living = LivingConnections(self._label_bit)
        self.traffic.begin_tour()
        try:
            is_last = False
            while not is_last:
                readings, is_last = await asyncio.to_thread(living.portion, _PORTION_S)
                for reading in readings:
                    self.traffic.living(reading)
                self._drain(ended)
                await asyncio.sleep(_PORTION_S)
        finally:
            living.close()
        self.traffic.end_tour()

    async def _listen(self, ended: EndedConnections, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:  # noqa: ASYNC110  # a poll: one reading for many events
                    await asyncio.sleep(_IDLE_S if self._drain(ended) else _BETWEEN_SLICES_S)

    def _drain(self, ended: EndedConnections) -> bool:
        """Read ended connections for a slice. Returns whether all were read."""
        readings, is_all = ended.drain(_SLICE_S)
        for reading in readings:
            self.traffic.ended(reading)
        return is_all

    def _stop(self) -> None:
        if self._ended is not None:
            self._missed_before = self.missed
            self._ended.close()
            self._ended = None
            self.traffic.clear()
            self.traffic.is_on = False
