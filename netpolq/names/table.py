"""Table of learned names: the addresses that DNS answers have given for each name, and until when. Pure: time is an argument.

A **pair** is a name and an address. It is valid until its expiry, and stays for a grace period, for clients that keep addresses longer
than they should. Then it goes. A repeated answer prolongs it.

What a pod asks for, and what a DNS server answers, comes from outside. So there are bounds: pairs of one name, pairs that the answers to
one pod have introduced, and all pairs. At a bound, the pair that expires first makes room if it is in its grace period. Otherwise the new
pair is refused. Known pairs are prolonged also at a bound.
"""

import heapq

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from netpolq.addresses import AddressKey

MAX_OF_NAME = 512
"""Maximum number of addresses of a name."""

MAX_OF_POD = 4096
"""Maximum number of pairs that the answers to one pod have introduced."""

MAX_PAIRS = 65536

MAX_TTL_S = 86400
"""Longer times to live count as this one. Caching resolvers use the same limit (cache-max-ttl in unbound.conf(5))."""

_FIRST_INVALID_TTL_S = 1 << 31
"""From here on a time to live counts as 0. Source: RFC 2181 section 8."""


class Refusal(StrEnum):
    """Why an address of an answer was not learned. The values are those of a metric's label."""

    NAME_FULL = "name-full"
    POD_FULL = "pod-full"
    TABLE_FULL = "table-full"
    SPECIAL_ADDRESS = "special-address"
    POD_ADDRESS = "pod-address"
    NODE_ADDRESS = "node-address"


@dataclass(slots=True, kw_only=True, eq=False)
class Pair:
    """A name and one of its addresses. `pod`: address of the pod whose answer introduced it. `expiry_s`: without the grace period."""

    name: str
    address: AddressKey
    pod: AddressKey
    expiry_s: float
    is_known: bool = True

    def __lt__(self, other: "Pair") -> bool:
        return (self.name, self.address) < (other.name, other.address)


class _Group:
    """Pairs by expiry. `count`: those that are known. The heap also has forgotten pairs, and places from before a prolongation."""

    __slots__ = ("_heap", "count")

    def __init__(self) -> None:
        self._heap: list[tuple[float, Pair]] = []
        self.count = 0

    def add(self, pair: Pair) -> None:
        heapq.heappush(self._heap, (pair.expiry_s, pair))
        self.count += 1

    def forget(self) -> None:
        """One pair is no longer known."""
        self.count -= 1
        if len(self._heap) > 2 * self.count + 16:
            self._heap = [(pair.expiry_s, pair) for _expiry_s, pair in self._heap if pair.is_known]
            heapq.heapify(self._heap)

    def first(self) -> Pair | None:
        """The pair that expires first."""
        while self._heap:
            expiry_s, pair = self._heap[0]
            if not pair.is_known:
                heapq.heappop(self._heap)
            elif pair.expiry_s != expiry_s:
                heapq.heapreplace(self._heap, (pair.expiry_s, pair))
            else:
                return pair
        return None


class NameTable:
    """Pairs with their expiry, in seconds of a clock of the caller.

    `grace_s`: the grace period. `refused`: addresses that were not learned, by cause. Methods that change pairs return the addresses whose
    names have changed.
    """

    def __init__(self, *, min_ttl_s: float, grace_s: float) -> None:
        self._min_ttl_s = min_ttl_s
        self.grace_s = grace_s
        self._pairs: dict[tuple[str, AddressKey], Pair] = {}
        self._names_of: dict[AddressKey, set[str]] = {}
        self._of_name: dict[str, _Group] = {}
        self._of_pod: dict[AddressKey, _Group] = {}
        self._all = _Group()
        self.refused: Counter[Refusal] = Counter(dict.fromkeys(Refusal, 0))

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    @property
    def name_count(self) -> int:
        """Number of names that have addresses."""
        return len(self._of_name)

    def names_of(self, address: AddressKey) -> frozenset[str]:
        """The names of an address."""
        return frozenset(self._names_of.get(address, ()))

    def learn(self, pod: AddressKey, name: str, addresses: Iterable[tuple[AddressKey, int]], now_s: float) -> set[AddressKey]:
        """Learn the addresses of an answer to a pod, each with its time to live in seconds."""
        changed: set[AddressKey] = set()
        for address, ttl_s in addresses:
            valid_s = min(ttl_s, MAX_TTL_S) if ttl_s < _FIRST_INVALID_TTL_S else 0
            changed |= self.put(pod, name, address, now_s + max(valid_s, self._min_ttl_s), now_s)
        return changed

    def put(self, pod: AddressKey, name: str, address: AddressKey, expiry_s: float, now_s: float) -> set[AddressKey]:
        """Add a pair, or prolong it, unless it is refused for a bound."""
        known = self._pairs.get((name, address))
        if known is not None:
            known.expiry_s = max(known.expiry_s, expiry_s)
            return set()
        changed = self._make_room(name, pod, now_s)
        if changed is None:
            return set()
        pair = Pair(name=name, address=address, pod=pod, expiry_s=expiry_s)
        self._pairs[name, address] = pair
        self._names_of.setdefault(address, set()).add(name)
        for group in (self._of_name.setdefault(name, _Group()), self._of_pod.setdefault(pod, _Group()), self._all):
            group.add(pair)
        return changed | {address}

    def _make_room(self, name: str, pod: AddressKey, now_s: float) -> set[AddressKey] | None:
        """Forget pairs that have expired, for a new pair. Returns their addresses; None if one of the bounds leaves no room."""
        bounds = (
            (Refusal.NAME_FULL, self._of_name.get(name), MAX_OF_NAME),
            (Refusal.POD_FULL, self._of_pod.get(pod), MAX_OF_POD),
            (Refusal.TABLE_FULL, self._all, MAX_PAIRS),
        )
        oldest = [(cause, group.first()) for cause, group, limit in bounds if group is not None and group.count >= limit]
        for cause, pair in oldest:
            if pair is not None and pair.expiry_s > now_s:
                self.refused[cause] += 1
                return None
        # One pair may make room under several bounds, and is forgotten once.
        return {self._forget(pair) for pair in {pair for _cause, pair in oldest if pair is not None}}

    def expire(self, now_s: float) -> set[AddressKey]:
        """Forget the pairs whose grace period is over."""
        changed = set()
        while (pair := self._all.first()) is not None and pair.expiry_s + self.grace_s <= now_s:
            changed.add(self._forget(pair))
        return changed

    def forget_address(self, address: AddressKey) -> set[AddressKey]:
        """Forget all names of an address."""
        return {self._forget(self._pairs[name, address]) for name in self.names_of(address)}

    def retain(self, is_used: Callable[[str], bool]) -> set[AddressKey]:
        """Forget the names that are no longer used."""
        unused = {name for name in self._of_name if not is_used(name)}
        return {self._forget(pair) for pair in list(self._pairs.values()) if pair.name in unused} if unused else set()

    def _forget(self, pair: Pair) -> AddressKey:
        pair.is_known = False
        del self._pairs[pair.name, pair.address]
        names = self._names_of[pair.address]
        names.discard(pair.name)
        if not names:
            del self._names_of[pair.address]
        for group in (self._of_name[pair.name], self._of_pod[pair.pod], self._all):
            group.forget()
        if not self._of_name[pair.name].count:
            del self._of_name[pair.name]
        if not self._of_pod[pair.pod].count:
            del self._of_pod[pair.pod]
        return pair.address
