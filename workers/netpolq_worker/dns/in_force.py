"""The addresses that are in force already: a response that repeats them needs not wait.

The supervisor sends `Resolvers` again whenever the names in policies change, and when it is another process. Then nothing is known.
"""

from enum import Enum

from netpolq_worker.dns.pod_table import PodTable

MAX_ADDRESSES = 65_536
MAX_ADDRESSES_OF_POD = 8192
_ROUNDING_NS = 1_000_000_000
"""A server counts a TTL down in whole seconds, so the end of an address's life seems to move by up to one."""

_NS_PER_S = 1_000_000_000


class News(Enum):
    """What a response changes. MORE: it has an address that is not in force. LONGER: one is valid for longer."""

    MORE = "more"
    LONGER = "longer"
    NONE = "none"


class AddressesInForce:
    """A bounded table of pod, name and address. `min_ttl_s`: the supervisor keeps every address for as long."""

    def __init__(self, min_ttl_s: int) -> None:
        self._min_ttl_s = min_ttl_s
        self._expiries: PodTable[tuple[bytes, str, bytes], int] = PodTable(MAX_ADDRESSES, MAX_ADDRESSES_OF_POD)

    def __len__(self) -> int:
        return len(self._expiries)

    def news(self, pod: bytes, name: str, addresses: tuple[tuple[bytes, int], ...], now_ns: int) -> News:
        """What a response changes. `addresses`: keys and TTLs in seconds."""
        found = News.NONE
        for address, ttl_s in addresses:
            expiry_ns = self._expiries.get((pod, name, address))
            if expiry_ns is None or expiry_ns <= now_ns:
                return News.MORE
            if self._expiry_ns(ttl_s, now_ns) > expiry_ns + _ROUNDING_NS:
                found = News.LONGER
        return found

    def add(self, pod: bytes, name: str, addresses: tuple[tuple[bytes, int], ...], answered_ns: int) -> None:
        """Record that the addresses of a response are in force. `answered_ns`: when it came."""
        for address, ttl_s in addresses:
            key = pod, name, address
            self._expiries.put(pod, key, max(self._expiry_ns(ttl_s, answered_ns), self._expiries.get(key) or 0))

    def clear(self) -> None:
        """Forget all."""
        self._expiries.clear()

    def _expiry_ns(self, ttl_s: int, now_ns: int) -> int:
        return now_ns + max(ttl_s, self._min_ttl_s) * _NS_PER_S
