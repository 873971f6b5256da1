"""Time limits of the cluster source: requests, watches and pauses."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Time limits, in seconds.

    `watch_s`: a watch is asked to end after a random time between these two. `idle_s`: without a byte, bookmarks included, a connection
    counts as dead; the server sends a bookmark about every minute. `first_delay_s`, `max_delay_s`: back-off between attempts that fail.
    `failures_before_relist`: after so many consecutive watches with invalid content, the reflector drops the version.
    `silent_s`: a watch that lasts longer without any byte has missed a bookmark, and everything is listed again; the server may have
    gone back to a state before the version of the watch.
    `relist_s_per_object`, `max_relist_s`: after a lost contact, where the server cannot prove that its history is the same, everything is
    listed again after a random time, which is at most so long for each known object, and at most so long in all. A thousand agents then
    ask for 10,000 objects a second or fewer, up to 6,000 objects in the cluster.
    `discovery_s`: between two questions which optional kinds the server has, a random time between these two. `absence_s`: the pause
    before the second question, which must confirm that a kind is gone.
    `nodes_s`: a policy with node peers waits at most so long for the addresses of the nodes.
    """

    page_objects: int = 500
    request_s: float = 60.0
    watch_s: tuple[float, float] = (300.0, 600.0)
    idle_s: float = 150.0
    initial_events_s: float = 120.0
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    failures_before_relist: int = 3
    silent_s: float = 90.0
    relist_s_per_object: float = 0.1
    max_relist_s: float = 600.0
    discovery_s: tuple[float, float] = (20.0, 30.0)
    absence_s: float = 3.0
    nodes_s: float = 10.0
