"""Limits of Events: how many there may be, and how fast."""

from dataclasses import dataclass

_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers, and times in seconds.

    `series`: kept at most; the one whose last denial is oldest gives way. `outside`: addresses outside the cluster with an Event of their
    own, for each pod, direction and reason. `pod_interval_s`, `pod_burst`: of new Events of a pod. `node_interval_s`, `node_burst`: of all
    writes. `update_s`: the time between two writes of a series. `wait_s`: a series without an Event is dropped so long after its last
    denial, `idle_s`: one with an Event; the next denial then begins a new series.
    """

    series: int = 4096
    outside: int = 8
    pod_interval_s: float = 10.0
    pod_burst: int = 5
    node_interval_s: float = 0.2
    node_burst: int = 20
    update_s: float = 60.0
    wait_s: float = 120.0
    idle_s: float = 600.0


class Bucket:
    """A token bucket. `interval_s`: the time in which it gains a token. It starts full.

    It is kept as the time at which it will be full again, which does not add up rounding errors of many looks at it.
    """

    __slots__ = ("_full_at", "_interval_s", "_late_s")

    def __init__(self, interval_s: float, burst: int, now: float) -> None:
        self._interval_s = interval_s
        self._late_s = interval_s * (burst - 1) + _ROUNDING_S
        self._full_at = now

    def has_token(self, now: float) -> bool:
        """Whether there is a token to take."""
        return self._full_at - now <= self._late_s

    def is_full(self, now: float) -> bool:
        """Whether a new bucket would be the same."""
        return self._full_at <= now

    def take(self, now: float) -> None:
        """Take a token that is there."""
        self._full_at = max(self._full_at, now) + self._interval_s
