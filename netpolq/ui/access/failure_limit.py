"""A limit on failed attempts, for each client address and for all of them."""

from collections import OrderedDict
from dataclasses import dataclass

MAX_CLIENTS = 1000
"""Addresses that are remembered. The one whose last failure is oldest is forgotten first."""

_BURST, _SECONDS_EACH = 20, 3.0
"""An address may fail 20 times, and once more every three seconds."""

_BURST_OF_ALL, _SECONDS_EACH_OF_ALL = 200, 0.1
"""All together, so that many addresses cannot have the API server asked without a limit."""


@dataclass(slots=True)
class _Bucket:
    """`level`: failures that still count at `at_s`."""

    level: float
    at_s: float

    def now(self, now_s: float, seconds_each: float) -> float:
        return max(0.0, self.level - (now_s - self.at_s) / seconds_each)


class FailureLimit:
    """Failures by client address. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = _Bucket(0.0, 0.0)

    def wait_s(self, client: str, now_s: float) -> int:
        """Seconds until the client may try again; 0 if it may now."""
        bucket = self._clients.get(client)
        own = 0.0 if bucket is None else (bucket.now(now_s, _SECONDS_EACH) - _BURST + 1) * _SECONDS_EACH
        of_all = (self._all.now(now_s, _SECONDS_EACH_OF_ALL) - _BURST_OF_ALL + 1) * _SECONDS_EACH_OF_ALL
        wait_s = max(own, of_all)
        return 0 if wait_s <= 0 else int(wait_s) + 1

    def note(self, client: str, now_s: float) -> None:
        """Count a failure."""
        bucket = self._clients.pop(client, None)
        level = 0.0 if bucket is None else bucket.now(now_s, _SECONDS_EACH)
        self._clients[client] = _Bucket(min(level + 1, _BURST), now_s)
        self._all = _Bucket(min(self._all.now(now_s, _SECONDS_EACH_OF_ALL) + 1, _BURST_OF_ALL), now_s)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
