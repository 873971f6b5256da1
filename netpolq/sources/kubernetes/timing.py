"""How long requests, watches and pauses of the cluster source may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take, in seconds.

    `watch_s`: a watch is asked to end after a random time between these two. `idle_s`: without a byte, bookmarks included, a connection
    counts as dead; the server sends a bookmark about every minute. `first_delay_s`, `max_delay_s`: back-off between attempts that fail.
    `failures_before_relist`: after so many watches in a row that fail for what they say, the version is not trusted to be resumable.
    `silent_s`: a watch that lasts longer and never says a byte has missed a bookmark, and everything is listed again; the server may have
    gone back to a state before the version that the watch goes on from.
    `relist_s_per_object`, `max_relist_s`: after a lost contact, where the server cannot prove that its history is the same, everything is
    listed again after a random time, which is at most so long for each known object, and at most so long in all. A thousand agents then
    ask for 10,000 objects a second or fewer, up to 6,000 objects in the cluster.
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
