"""A connection + snapshot → verdict, through a bounded cache. Pure: no kernel, no clock.

The cache key is what by the API alone can change a verdict: addresses, protocol and destination port. Its shape is what one `struct` call
takes out of a packet with a plain header (`netpolq_worker.packet`).
"""

from collections.abc import Collection

from netpolq.addresses import IPV4_MAPPED_PREFIX
from netpolq.channel import Hint
from netpolq.enums import Verdict
from netpolq.snapshot.resolver import Resolver
from netpolq.snapshot.view import SnapshotView
from netpolq_worker.packet import UNKEYED_PROTOCOLS, WITH_PORTS, Key, Question, key_of, question_of, series_of

GENERATION_ENTRIES = 8192
"""Entries of one cache generation; two are kept, about 250 bytes an entry. A generation is let go at once, which takes about 0.1 µs an
entry: larger ones would make somebody wait."""

MAX_WAITING_HINTS = 512
MAX_HINTS_A_WINDOW = 4096
"""A flood of connections that are all asked for twice must not make a worker do nothing but hint."""


class Decider:
    """Answers by the newest snapshot it was given. `view` None: there is no snapshot yet, and nothing can be judged.

    `cache`: code by key, for the packet path to look up; what is not there, or negative, `decide` must be asked about. A **code** is
    `series << 1 | verdict` (`series_of` in `netpolq_worker.packet`); negative (`~code`): asked for once, and worth a hint the next time.
    The dictionary is replaced now and then by `decide` and `adopt`. `misses`: decisions that no cache had.
    """

    def __init__(self, generation_entries: int = GENERATION_ENTRIES, *, with_hints: bool = False) -> None:
        self.view: SnapshotView | None = None
        self.cache: dict[Key, int] = {}
        self.misses = 0
        self._resolver: Resolver | None = None
        self._limit = generation_entries
        self._with_hints = with_hints
        self._old: dict[Key, int] = {}
        self._addresses: set[bytes] = set()
        self._old_addresses: set[bytes] = set()
        self._waiting: list[Key] = []
        self._hinted: list[Key] = []

    def decide(self, question: Question, key: Key | None = None) -> int | None:
        """The code for a connection, never negative, or None without a snapshot. `key`: of the packet, if its header is a plain one."""
        if key is None:
            key = key_of(question)
        code = self.cache.get(key)
        if code is None:
            code = self._old.get(key)
            if code is None:
                return self._judge(key, question)
            self._keep(key, code, question)
        if code < 0:
            code = ~code
            if len(self._waiting) < MAX_WAITING_HINTS and len(self._hinted) < MAX_HINTS_A_WINDOW:
                self._waiting.append(key)
                self._hinted.append(key)
                self.cache[key] = code
        return code

    def _judge(self, key: Key, question: Question) -> int | None:
        if self._resolver is None:
            return None
        self.misses += 1
        source, destination, protocol, port = question
        family = len(source)
        if family == 4:
            source, destination = IPV4_MAPPED_PREFIX + source, IPV4_MAPPED_PREFIX + destination
        code = series_of(protocol, family) << 1 | self._resolver.verdict(source, destination, protocol, port)
        if protocol not in UNKEYED_PROTOCOLS:
            self._keep(key, ~code if self._with_hints and protocol in WITH_PORTS else code, question)
        return code

    def _keep(self, key: Key, code: int, question: Question) -> None:
        # Two generations bound the cache without bookkeeping per hit: what is not asked for again falls out with the old one.
        if len(self.cache) >= self._limit:
            self._old, self._old_addresses = self.cache, self._addresses
            self.cache, self._addresses = {}, set()
        self.cache[key] = code
        self._addresses.add(question[0])
        self._addresses.add(question[1])

    def adopt(self, view: SnapshotView, changed: Collection[bytes] | None) -> None:
        """Judge by another snapshot from now on. `changed`: address keys whose flows may be judged differently; None: all."""
        previous, self.view = self.view, view
        self._resolver = Resolver(view)
        self._waiting.clear()  # decisions of the previous version
        if previous is None or changed is None:
            self.cache, self._addresses = {}, set()
            self._old, self._old_addresses = {}, set()
        else:
            affected = {key[12:] if key.startswith(IPV4_MAPPED_PREFIX) else key for key in changed}
            for generation, addresses in ((self.cache, self._addresses), (self._old, self._old_addresses)):
                # Most changes are about pods that nobody here has spoken with: then there is nothing to go through.
                if not affected.isdisjoint(addresses):
                    for key in [key for key in generation if not affected.isdisjoint(question_of(key)[:2])]:
                        del generation[key]
        if previous is not None:
            previous.close()

    # --- hints --------------------------------------------------------------------------------------------------------------------

    @property
    def has_hints(self) -> bool:
        """Whether a decision was asked for again since `take_hints`."""
        return bool(self._waiting)

    def take_hints(self, limit: int) -> list[Hint]:
        """At most so many of the decisions that were asked for again by the present snapshot; they are not waiting any more."""
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        hints = []
        for key in taken:
            code = self.cache.get(key, self._old.get(key))
            if code is not None:
                source, destination, protocol, port = question_of(key)
                if len(source) == 4:
                    source, destination = IPV4_MAPPED_PREFIX + source, IPV4_MAPPED_PREFIX + destination
                hints.append(Hint(source, destination, port, protocol, Verdict(code & 1)))
        return hints

    def begin_window(self) -> None:
        """Forget which decisions were hinted at: if one is asked for again, the kernel does not have it (any more)."""
        for key in self._hinted:
            for generation in (self.cache, self._old):
                code = generation.get(key)
                if code is not None and code >= 0:
                    generation[key] = ~code
        self._hinted.clear()
        self._waiting.clear()

    def __len__(self) -> int:
        return len(self.cache) + len(self._old)
