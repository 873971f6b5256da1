"""Bounded ledger of the decisions in the kernel: a superset of what the kernel holds. Pure."""

from collections.abc import Collection, Iterable
from itertools import takewhile

from netpolq.enums import Protocol, Verdict
from netpolq.ipc.channel import EVERY_PORT, CachedVerdict

_NEVER_NS = 1 << 63
_SLACK_NS = 50_000_000
"""Margin for kernel timeouts, whose resolution is the clock tick (10 ms at HZ=100): a decision counts as held this much longer."""

_PROTOCOLS = frozenset(Protocol)


class VerdictLedger:
    """Decisions that were given to the kernel and have not timed out there.

    `size`: maximum number; at most half of them drops, so that a scan cannot displace accepted connections. `ttl_ns`: lifetime of each in
    the kernel. The caller passes the time, in nanoseconds of the monotonic clock.
    """

    def __init__(self, size: int, ttl_ns: int) -> None:
        self._size = size
        self._ttl_ns = ttl_ns
        self._expiries: dict[CachedVerdict, int] = {}  # in order of expiry, since every decision has the same lifetime
        self._by_address: dict[bytes, set[CachedVerdict]] = {}
        self._drops = 0

    def admit(self, entries: Iterable[CachedVerdict]) -> tuple[list[CachedVerdict], int]:
        """Add decisions before they are written to the kernel. Returns those that are new and fit, and how many did not fit."""
        admitted = []
        refused = 0
        for entry in entries:
            is_drop = entry.verdict is Verdict.DROP
            if entry in self._expiries or entry.protocol not in _PROTOCOLS or (entry.port == EVERY_PORT and not is_drop):
                continue
            if len(self._expiries) >= self._size or (is_drop and self._drops >= self._size // 2):
                refused += 1
                continue
            self._expiries[entry] = _NEVER_NS
            for address in (entry.source, entry.destination):
                self._by_address.setdefault(address, set()).add(entry)
            self._drops += is_drop
            admitted.append(entry)
        return admitted, refused

    def given(self, entries: Iterable[CachedVerdict], now_ns: int) -> None:
        """The kernel has the decisions since `now_ns` at the latest: their lifetime runs."""
        expiry_ns = now_ns + self._ttl_ns + _SLACK_NS
        for entry in entries:
            if entry in self._expiries:
                self._expiries[entry] = expiry_ns

    def expire(self, now_ns: int) -> None:
        """Remove decisions that have certainly timed out in the kernel."""
        gone = []
        for entry, expiry_ns in self._expiries.items():
            if expiry_ns > now_ns:
                break
            gone.append(entry)
        self.remove(gone)

    def ending_before(self, time_ns: int) -> list[CachedVerdict]:
        """Decisions that have timed out in the kernel by then at the latest."""
        return list(takewhile(lambda entry: self._expiries[entry] <= time_ns, self._expiries))

    def about(self, addresses: Iterable[bytes]) -> list[CachedVerdict]:
        """Decisions on connections from or to any of these addresses."""
        found: set[CachedVerdict] = set()
        for address in addresses:
            found |= self._by_address.get(address, set())
        return sorted(found)

    def remove(self, entries: Collection[CachedVerdict]) -> None:
        """The kernel no longer holds these decisions."""
        for entry in entries:
            del self._expiries[entry]
            self._drops -= entry.verdict is Verdict.DROP
            for address in {entry.source, entry.destination}:
                others = self._by_address[address]
                others.discard(entry)
                if not others:
                    del self._by_address[address]

    def clear(self) -> None:
        """The kernel holds no decision."""
        self._expiries.clear()
        self._by_address.clear()
        self._drops = 0

    def __len__(self) -> int:
        return len(self._expiries)
