"""What nobody tells and must be looked at: the ruleset's counters, bridges that bypass it, and how full the connection table is."""

import asyncio
import logging

from collections.abc import Mapping

from netpolq.dataplane.apply import Ruleset
from netpolq.dataplane.bridge_guard import BridgeGuard
from netpolq.dataplane.kernel import ConntrackUsage, conntrack_usage, unfiltered_bridges
from netpolq.dataplane.ruleset import CACHE_LOOKUPS, CacheCounts
from netpolq.errors import NetpolqError

_REFRESH_S = 1.0
_NEARLY_FULL = 0.95

log = logging.getLogger("supervisor")


class Surroundings:
    """The state as it was when last looked at. `counters`: packets by name, empty while there is no table.

    `cache_counts`: None until the table has counters of the verdict cache. `conntrack`: None where the kernel does not tell.
    """

    def __init__(self) -> None:
        self.counters: Mapping[str, int] = {}
        self.cache_counts: CacheCounts | None = None
        self.conntrack: ConntrackUsage | None = None
        self._bridges: tuple[str, ...] = ()

    @property
    def problem(self) -> str | None:
        """Why not all packets pass the ruleset, or None."""
        if not self._bridges:
            return None
        return (
            f"traffic between ports of bridge {', '.join(self._bridges)} does not pass the IP hooks and is not judged: "
            "load br_netfilter and set net.bridge.bridge-nf-call-iptables and -ip6tables to 1"
        )

    def count(self, counters: Mapping[str, int]) -> None:
        """Keep what the ruleset's counters say now."""
        self.counters = counters
        if CACHE_LOOKUPS in counters:
            counts, earlier = CacheCounts.of(counters), self.cache_counts
            self.cache_counts = counts if earlier is None else counts.not_below(earlier)

    async def watch(self, ruleset: Ruleset, bridge_guard: BridgeGuard) -> None:
        """Look once a second until cancelled, and log what gets bad."""
        while True:
            try:
                self.count({**await ruleset.counters(), **await bridge_guard.counters()})
            except NetpolqError as error:
                log.warning("%s", error)
            known_problem, self._bridges = self.problem, await asyncio.to_thread(unfiltered_bridges)
            if self.problem not in {None, known_problem}:
                log.warning("%s", self.problem)
            before, self.conntrack = self.conntrack, await asyncio.to_thread(conntrack_usage)
            if self.conntrack is not None and _is_nearly_full(self.conntrack) and not _is_nearly_full(before):
                log.warning(
                    "the connection table holds %d of %d connections: once it is full, the kernel drops the first packets of new ones "
                    "before they are judged; raise net.netfilter.nf_conntrack_max",
                    self.conntrack.entries,
                    self.conntrack.limit,
                )
            await asyncio.sleep(_REFRESH_S)


def _is_nearly_full(usage: ConntrackUsage | None) -> bool:
    return usage is not None and usage.entries >= _NEARLY_FULL * usage.limit
