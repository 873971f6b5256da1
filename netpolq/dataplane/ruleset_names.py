"""Names of the table `inet netpolq` and of its counters, maps and sets that other parts of the agent use."""

TABLE = "netpolq"
ENQUEUE = "enqueue"
UNJUDGED = "unjudged"

SPOOFED = "spoofed"
"""Counter of new connections that came from an interface that does not lead to their source."""

CACHE_LOOKUPS = "cache_lookups"
CACHE_MISSES = "cache_misses"
CACHE_ACCEPTS = "cache_accepts"
"""Counters of the verdict cache. Every look-up ends as a miss, as an accept, or as a drop, which no counter of its own tells."""

VERDICTS_V4 = "verdicts_v4"
VERDICTS_V6 = "verdicts_v6"
"""Maps from source, destination, protocol and destination port to `drop`, or to `return`, which stands for an accept."""

CLOSED_V4 = "closed_v4"
CLOSED_V6 = "closed_v6"
"""Sets of source, destination and protocol: dropped, whatever the port. One element answers a scan of all ports."""
