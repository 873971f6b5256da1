"""Polls host state every second.

Reads the ruleset's counters, bridges that bypass the ruleset, rules of other software that set the agent's bits of connection labels, and
the usage of the conntrack table.
"""

import asyncio
import logging
import time

from collections.abc import Mapping, Sequence
from contextlib import suppress

from netpolq.dataplane.bridge_guard import BridgeGuard
from netpolq.dataplane.host_checks import ConntrackUsage, conntrack_usage, unfiltered_bridges
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.label_clash import Setter, clashes, free_bits, read_setters
from netpolq.dataplane.ruleset import CACHE_LOOKUPS, CacheCounts
from netpolq.dataplane.table_state import read_generation
from netpolq.enums import CONNECTION_LABEL_BITS
from netpolq.errors import NetpolqError

_REFRESH_S = 1.0
_MAX_RULES_SHARE = 0.01
"""Maximum share of the time for reading the rules of other software."""

_NEARLY_FULL = 0.95

log = logging.getLogger("supervisor")


class HostMonitor:
    """The host state at the last poll. `counters`: packets by name, empty while there is no table.

    `clashing_chains`: chains of other tables that set the agent's label bits. `cache_counts`: None until the table has counters of the
    verdict cache. `conntrack`: None if the kernel does not report it.
    """

    def __init__(self, ct_label: int) -> None:
        self._ct_label = ct_label
        self._label_problem: str | None = None
        self._rules_due_s = 0.0
        self._rules_generation: int | None = None
        self.clashing_chains: tuple[str, ...] = ()
        self.counters: Mapping[str, int] = {}
        self.cache_counts: CacheCounts | None = None
        self.conntrack: ConntrackUsage | None = None
        self._bridges: tuple[str, ...] = ()

    @property
    def problem(self) -> str | None:
        """Why packets may bypass policies, or None."""
        if not self._bridges:
            return self._label_problem
        return (
            f"traffic between ports of bridge {', '.join(self._bridges)} bypassed policy evaluation: it does not pass the IP hooks; "
            "load br_netfilter and set net.bridge.bridge-nf-call-iptables and -ip6tables to 1"
        )

    def count(self, counters: Mapping[str, int]) -> None:
        """Store the present values of the ruleset's counters."""
        self.counters = counters
        if CACHE_LOOKUPS in counters:
            counts, earlier = CacheCounts.of(counters), self.cache_counts
            self.cache_counts = counts if earlier is None else counts.not_below(earlier)

    async def watch(self, ruleset: Ruleset, bridge_guard: BridgeGuard) -> None:
        """Poll once a second until cancelled, and log new problems."""
        while True:
            try:
                self.count({**await ruleset.counters(), **await bridge_guard.counters()})
            except NetpolqError as error:
                log.warning("%s", error)
            known_problem, self._bridges = self.problem, await asyncio.to_thread(unfiltered_bridges)
            await self._read_rules()
            if self.problem not in {None, known_problem}:
                log.warning("%s", self.problem)
            before, self.conntrack = self.conntrack, await asyncio.to_thread(conntrack_usage)
            if self.conntrack is not None and _is_nearly_full(self.conntrack) and not _is_nearly_full(before):
                log.warning(
                    "the conntrack table has %d of %d entries: when it is full, the kernel drops the first packets of new "
                    "connections before their evaluation; raise net.netfilter.nf_conntrack_max",
                    self.conntrack.entries,
                    self.conntrack.limit,
                )
            await asyncio.sleep(_REFRESH_S)

    async def _read_rules(self) -> None:
        """Read the rules of other software if any has changed, but not too often: a node may have tens of thousands of rules."""
        started_s = time.monotonic()
        if started_s < self._rules_due_s:
            return
        with suppress(OSError):  # also when the rules change during the read; the next poll reads them again
            generation, setters = await asyncio.to_thread(_read_setters, self._rules_generation)
            self._rules_generation = generation
            if setters is not None:
                self.update_clashes(setters)
        finished_s = time.monotonic()
        self._rules_due_s = finished_s + (finished_s - started_s) / _MAX_RULES_SHARE

    def update_clashes(self, setters: Sequence[Setter]) -> None:
        """Set `clashing_chains` and the problem from the rules that set label bits."""
        self.clashing_chains = tuple(clashes(setters, self._ct_label))
        self._label_problem = None
        if self.clashing_chains:
            more = f" and {len(self.clashing_chains) - 1} more" if len(self.clashing_chains) > 1 else ""
            free = free_bits(setters)
            advice = "no other bits are free" if free is None else f"set --ct-label to bits that no rule sets, such as {free}"
            self._label_problem = (
                f"rules of chain {self.clashing_chains[0]}{more} set bits of connection labels ({self._ct_label} and the next "
                f"{CONNECTION_LABEL_BITS - 1}) that mark accepted connections: {advice}"
            )


def _read_setters(known_generation: int | None) -> tuple[int, list[Setter] | None]:
    """The generation of the ruleset, and its rules that set label bits; None for the rules if the generation is known."""
    generation = read_generation()
    return generation, None if generation == known_generation else read_setters()


def _is_nearly_full(usage: ConntrackUsage | None) -> bool:
    return usage is not None and usage.entries >= _NEARLY_FULL * usage.limit
