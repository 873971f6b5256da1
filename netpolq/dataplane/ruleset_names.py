"""Names of the table `inet netpolq` and of its counters, maps and sets that other parts of the agent use."""

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

VERDICTS_V4 = "verdicts_v4"
VERDICTS_V6 = "verdicts_v6"
"""Maps from source, destination, protocol and destination port to `drop`, or to `return`, which means accept."""

CLOSED_V4 = "closed_v4"
CLOSED_V6 = "closed_v6"
"""Sets of source, destination and protocol: dropped at every port. One element covers a scan of all ports."""


def queue_chains(dns_queue: int | None) -> tuple[str, ...]:
    """The chains with a rule that queues packets."""
    return (ENQUEUE,) if dns_queue is None else (ENQUEUE, ENQUEUE_NAMES)
