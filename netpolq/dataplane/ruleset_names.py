"""Names of the table `inet netpolq` and of its counters, maps and sets that other parts of the agent use."""

from typing import NamedTuple

TABLE = "netpolq"
ENQUEUE = "enqueue"
"""Chain with the rule that queues packets for the workers."""

ENQUEUE_NAMES = "enqueue_names"
"""Chain with the rule that queues DNS messages for the DNS reader."""

UNJUDGED = "unjudged"
"""Counter of packets that came back from the queue without a verdict."""

SPOOFED = "spoofed"
"""Counter of dropped packets of new connections whose input interface does not lead to their source."""

CACHE_LOOKUPS = "cache_lookups"
CACHE_MISSES = "cache_misses"
CACHE_ACCEPTS = "cache_accepts"
"""Counters of the verdict cache. Every look-up is a miss, an accept, or a drop. Drops have no counter."""


class VerdictMaps(NamedTuple):
    """Names of the verdict maps, from source, destination, protocol and destination port to `drop`, or to `return`, which means accept;
    and of the sets of source, destination and protocol that are dropped at every port: one element covers a scan of all ports.
    """

    verdicts_v4: str
    verdicts_v6: str
    closed_v4: str
    closed_v6: str


_PLAIN_MAPS = VerdictMaps("verdicts_v4", "verdicts_v6", "closed_v4", "closed_v6")
_COUNTED_MAPS = VerdictMaps("counted_verdicts_v4", "counted_verdicts_v6", "counted_closed_v4", "counted_closed_v6")


def verdict_maps(*, are_counted: bool) -> VerdictMaps:
    """The names of the maps. Those with a counter for each element have others, because the kernel redefines no map."""
    return _COUNTED_MAPS if are_counted else _PLAIN_MAPS


def queue_chains(dns_queue: int | None) -> tuple[str, ...]:
    """The chains with a rule that queues packets."""
    return (ENQUEUE,) if dns_queue is None else (ENQUEUE, ENQUEUE_NAMES)
