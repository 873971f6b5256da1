"""A connection + snapshot → verdict, through a bounded cache. Pure: no kernel, no clock.

The cache key is what by the API alone can change a verdict: addresses, protocol and destination port. Its shape is what one `struct` call
takes out of a packet with a plain header (`netpolq_worker.worker.packet`).
"""

import struct

from array import array
from collections.abc import Collection

from netpolq.addresses import IPV4_MAPPED_PREFIX, address_key, packed_address
from netpolq.enums import Verdict
from netpolq.errors import SnapshotError
from netpolq.ipc.channel import EVERY_PORT, Hint
from netpolq.snapshot.cached_evaluator import DROP_ON_EVERY_PORT, CachedEvaluator
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.packet import (
    UNKEYED_PROTOCOLS,
    WITH_PORTS,
    Key,
    Question,
    key_of,
    plain_question,
    question_of,
    series_of,
)

GENERATION_ENTRIES = 8192
"""Entries of one cache generation; two are kept, about 250 bytes an entry. A generation is let go at once, which takes about 0.1 µs an
entry: larger ones would make somebody wait."""

MAX_WAITING_HINTS = 512
MAX_HINTS_A_WINDOW = 4096
"""A flood of connections that are all asked for twice must not make a worker do nothing but hint. Drops may use only half of either, so
that a scan does not keep back what is to be accepted."""


ABSENT = -1 << 16
"""Stands for the code of a connection that the cache does not have."""

UNCLEAR = ABSENT - 1
"""Stands for the code of a packet that its key does not tell enough about, or that there is no snapshot to judge by."""

_SEEN_PLACES = 1 << 16


class FlowCache:
    """Answers by the newest snapshot it was given. `view` None: there is no snapshot yet, and nothing can be judged.

    `cache`: code by key, for the packet path to look up; what is not there, or negative, must be asked for. A **code** is
    `series << 1 | verdict` (`series_of` in `netpolq_worker.worker.packet`); negative (`~code`): worth a hint when it is asked for.
    The dictionary is replaced now and then by `decide` and `adopt`. `misses`: decisions that no cache had.

    A connection is cached when it is asked for a second time. Until then it is a mark of 16 bits in a table of fixed size, in the place
    of some other: most of a scan or of a flood from everywhere never comes again, and would only push out what does.
    """

    def __init__(self, generation_entries: int = GENERATION_ENTRIES, *, with_hints: bool = False) -> None:
        self.view: SnapshotReader | None = None
        self.cache: dict[Key, int] = {}
        self.misses = 0
        self._evaluator: CachedEvaluator | None = None
        self._limit = generation_entries
        self._with_hints = with_hints
        self._seen = array("H", bytes(2 * _SEEN_PLACES))
        self._old: dict[Key, int] = {}
        self._addresses: set[bytes] = set()
        self._old_addresses: set[bytes] = set()
        self._waiting: list[Key] = []
        self._hinted: list[Key] = []

    def decide_key(self, key: Key, code: int) -> int:
        """The code for a packet by the key that was taken out of it; negative (UNCLEAR) if `decide` must be asked, with the packet read.

        `code`: what the cache has for the key, ABSENT or negative.
        """
        if code == ABSENT:
            code = self._old.get(key, ABSENT) if self._old else ABSENT  # every look-up makes the hash of the key anew
            if code == ABSENT:
                question = plain_question(key)
                return UNCLEAR if question is None else self._judge(key, question)
            self._keep(key, code)
        return code if code >= 0 else self._hint(key, ~code)

    def decide(self, question: Question) -> int:
        """The code for a connection, never negative but for UNCLEAR: there is no snapshot."""
        key = key_of(question)
        code = self._known(key)
        return self._judge(key, question) if code is None else code

    def _known(self, key: Key) -> int | None:
        code = self.cache.get(key)
        if code is None:
            code = self._old.get(key)
            if code is None:
                return None
            self._keep(key, code)
        return code if code >= 0 else self._hint(key, ~code)

    def _judge(self, key: Key, question: Question) -> int:
        if self._evaluator is None:
            return UNCLEAR
        source, destination, protocol, port = question
        hints = self._with_hints and protocol in WITH_PORTS
        # One scan has tens of thousands of ports: if all are denied, only the pair is worth room, here and in the kernel. Where decisions
        # are hinted at, the key with this port stands for that and nothing else.
        pair = key_of((source, destination, protocol, EVERY_PORT)) if hints else key
        if hints and (known := self._known(pair)) is not None:
            return known
        self.misses += 1
        family = len(source)
        if family == 4:
            answer = self._evaluator.answer(IPV4_MAPPED_PREFIX + source, IPV4_MAPPED_PREFIX + destination, protocol, port)
        else:
            answer = self._evaluator.answer(source, destination, protocol, port)
        code = series_of(protocol, family) << 1 | answer & 1
        if hints and answer == DROP_ON_EVERY_PORT:
            key = pair
        elif protocol in UNKEYED_PROTOCOLS or (hints and port == EVERY_PORT):
            return code
        if self._seen_before(key):
            self._keep(key, code)
            if hints:
                self._hint(key, code)
        return code

    def _seen_before(self, key: Key) -> bool:
        """Whether a key has come lately; it has from now on. Another one may be taken for it, once in 65,536 times."""
        mark = hash(key)
        place = mark % _SEEN_PLACES
        mark = mark >> 16 & 0xFFFF
        if self._seen[place] == mark:
            return True
        self._seen[place] = mark
        return False

    def _hint(self, key: Key, code: int) -> int:
        share = 1 if code & 1 else 2
        if len(self._waiting) < MAX_WAITING_HINTS // share and len(self._hinted) < MAX_HINTS_A_WINDOW // share:
            self._waiting.append(key)
            self._hinted.append(key)
            self.cache[key] = code
        else:
            self.cache[key] = ~code
        return code

    def _keep(self, key: Key, code: int) -> None:
        # Two generations bound the cache without bookkeeping per hit: what is not asked for again falls out with the old one.
        if len(self.cache) >= self._limit:
            self._old, self._old_addresses = self.cache, self._addresses
            self.cache, self._addresses = {}, set()
        self.cache[key] = code
        self._addresses.update(question_of(key)[:2])

    def adopt(self, view: SnapshotReader, changed: Collection[bytes] | None) -> None:
        """Judge by another snapshot from now on. `changed`: address keys whose flows may be judged differently; None: all.

        Raises `SnapshotError` if it points outside of itself, as far as that shows at once, and goes on with the one there was.
        """
        try:
            evaluator = CachedEvaluator(view)
        except (IndexError, struct.error) as error:
            raise SnapshotError(f"snapshot {view.version} points outside of itself") from error
        previous, self.view, self._evaluator = self.view, view, evaluator
        self._waiting.clear()  # decisions of the previous version
        if previous is None or changed is None:
            self.cache, self._addresses = {}, set()
            self._old, self._old_addresses = {}, set()
        else:
            affected = {packed_address(key) for key in changed}
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
            if code is not None and code >= 0:
                source, destination, protocol, port = question_of(key)
                hints.append(Hint(address_key(source), address_key(destination), port, protocol, Verdict(code & 1)))
        return hints

    def reset_hint_window(self) -> None:
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
