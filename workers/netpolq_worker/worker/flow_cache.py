"""The flow cache: a bounded cache of answers for connections, in front of the snapshot evaluator. Pure: no kernel, no clock.

The cache key is everything that, by the API, can change a verdict: addresses, protocol and destination port. It has the layout that one
`struct` call takes out of a packet with a plain header (`netpolq_worker.worker.packet`).
"""

import struct

from array import array
from collections.abc import Collection, Iterator

from netpolq.addresses import address_key, packed_address
from netpolq.errors import SnapshotError
from netpolq.ipc.channel import EVERY_PORT, CachedVerdict
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from netpolq.snapshot.reader import Evaluation, SnapshotReader
from netpolq_worker.worker.flow_recorder import FlowRecorder
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
"""Entries of one cache generation; two are kept, about 250 bytes an entry. A generation is freed at once, which takes about 0.1 µs an
entry: with larger ones packets would wait noticeably."""

MAX_WAITING_HINTS = 512
MAX_HINTS_A_WINDOW = 4096
"""Limits the work that a flood of connections, each looked up twice, can cause. Drops may use only half of either limit, so that a scan
does not delay the hints for accepts."""

NOT_CACHED = -1 << 29
"""In place of an answer: the cache has no entry for the connection."""

NO_ANSWER = NOT_CACHED - 1
"""In place of an answer: the key alone does not identify the connection, or there is no snapshot to evaluate with."""

HOLD = NOT_CACHED - 2
"""In place of an answer: an isolated pod's peer is unknown, and should be a pod. The packet must wait. Never stored."""

MAX_EVALUATIONS = 1 << 16
"""Maximum number of different evaluations that answers refer to; at the limit the cache is emptied. About 350 bytes each."""

ANSWER_SERIES_SHIFT = 1
ANSWER_INGRESS_SHIFT = 5
ANSWER_EGRESS_SHIFT = 7
COUNTED_ANSWERS = 1 << 9
"""An answer modulo this is what its packets are counted by: verdict, series, and the tier that decided each direction."""
_ON_EVERY_PORT = 1 << 9
ANSWER_REJECTED = 1 << 10
"""Bit of an answer: the sender of a packet with this answer, a drop, gets an answer itself (`netpolq_worker.worker.rejecter`)."""
ANSWER_AUDITED = 1 << 11
"""Bit of an answer: with the policies in audit, the verdict would be the other one. The kernel must not hide such a connection."""
_EVALUATION_SHIFT = 12

NO_SLOT = 0
"""In place of the slot of a connection: the generation has none. The answer there is `NOT_CACHED`."""

_SEEN_PLACES = (1 << 16) - 1
"""The highest index into the table of keys seen once, and the bits of it."""

_NO_RANGES = AddressRanges()

_SERIES_BITS = {
    address_bytes: tuple(series_of(protocol, address_bytes) << ANSWER_SERIES_SHIFT for protocol in range(256))
    for address_bytes in (4, 16)
}
"""The series of a packet within its answer, by bytes of an address and protocol."""


class Generation:
    """A part of the cache that is freed at once. `slots`: slot of each connection.

    By slot: `answers`, inverted (`~answer`, negative) where the next lookup sends a hint; `counts`, of lookups since the last reading, if
    flows are recorded; `keys`. Slots are not used again. `addresses`: of all connections.
    """

    __slots__ = ("addresses", "answers", "counts", "keys", "slots")

    def __init__(self) -> None:
        self.slots: dict[Key, int] = {}
        self.answers = [NOT_CACHED]
        self.counts = [0]
        self.keys: list[Key] = [(0, b"", 0)]
        self.addresses: set[bytes] = set()

    def add(self, key: Key, stored: int) -> int:
        """Store an answer. Returns its slot."""
        slot = self.slots[key] = len(self.answers)
        self.answers.append(stored)
        self.counts.append(0)
        self.keys.append(key)
        self.addresses.update(question_of(key)[:2])
        return slot

    def take_counts(self) -> Iterator[tuple[Key, int, int]]:
        """See `netpolq_worker.worker.flow_recorder.Answers`."""
        counts, answers, keys = self.counts, self.answers, self.keys
        for slot in [slot for slot, count in enumerate(counts) if count]:
            stored = answers[slot]
            yield keys[slot], stored if stored >= 0 else ~stored, counts[slot]
            counts[slot] = 0


class FlowCache:
    """Answers with the newest loaded snapshot. `view` None: there is no snapshot yet, and every answer is `NO_ANSWER`.

    An **answer** is
    `evaluation << 12 | audited << 11 | rejected << 10 | every port << 9 | egress << 7 | ingress << 5 | series << 1 | verdict`: the index
    of an evaluation (see `evaluation`), which names the decisions; `ANSWER_AUDITED`; `ANSWER_REJECTED`; whether it is the same on every
    port of the protocol; the tier that decided each direction (0: none, otherwise `Tier` + 1); and the series to count the packet in
    (`series_of` in `netpolq_worker.worker.packet`). Decisions keep their numbers from snapshot to snapshot, so answers for addresses that a
    snapshot does not change stay valid.

    `generation`: for the packet path to look up in. What has no slot there, or a negative answer, goes through `answer_key`; for all other
    lookups the packet path adds 1 to the count of the slot if `counts_flows`. `answer`, `answer_key` and `load` replace the generation now
    and then. `misses`: answers made from the snapshot.

    A connection is cached at its second lookup. The first leaves a mark of 16 bits in a table of fixed size, in place of an older one:
    most connections of a scan or of a distributed flood never come again, and would only evict those that do.

    `unknown_peers`: ranges in which a peer without an identity is a pod that is not known yet (`HOLD`). `flows` None: flows are not
    recorded.
    """

    def __init__(
        self,
        generation_entries: int = GENERATION_ENTRIES,
        *,
        with_hints: bool = False,
        unknown_peers: AddressRanges = _NO_RANGES,
        flows: FlowRecorder | None = None,
    ) -> None:
        self.view: SnapshotReader | None = None
        self._held = (unknown_peers, HOLD) if unknown_peers else None
        self.generation = Generation()
        self.misses = 0
        self._evaluator: CachedEvaluator[int] | None = None
        self._flows = flows
        self._limit = generation_entries
        self.with_hints = with_hints
        self._seen = array("H", bytes(2 * (_SEEN_PLACES + 1)))
        self._old = Generation()
        self._waiting: list[Key] = []
        self._hinted: list[Key] = []
        self._limited: set[Key] = set()  # denials whose packets get no answer at present
        self._evaluations: list[Evaluation] = []
        self._answers: dict[int | Evaluation, int] = {}  # of evaluations with the present snapshot, without series
        self._all_answers: dict[tuple[int | Evaluation, int], int] = {}  # the same of all snapshots, by evaluation and flags

    def evaluation(self, answer: int) -> Evaluation:
        """The evaluation of an answer that was returned since the last call of `load`."""
        return self._evaluations[answer >> _EVALUATION_SHIFT]

    @property
    def counts_flows(self) -> bool:
        """Whether flows are recorded."""
        return self._flows is not None

    def flush_flows(self) -> None:
        """Write the flows that were recorded. Call it a few times a second."""
        if self._flows is not None:
            self._flows.flush(self)

    def answer_key(self, key: Key, stored: int) -> int:
        """The answer for a packet by its key, or `HOLD`; `NO_ANSWER` if the packet must be parsed and passed to `answer`.

        `stored`: the answer of its slot in `generation`: `NOT_CACHED`, or a negative value.
        """
        # The test saves hashing the key once more.
        if (stored != NOT_CACHED or self._old.slots) and (slot := self._slot(key)):
            return self._count(key, slot)
        question = plain_question(key)
        return NO_ANSWER if question is None else self._evaluate(key, question)

    def answer(self, question: Question) -> int:
        """The answer for a connection; `NO_ANSWER` if there is no snapshot, or `HOLD`."""
        key = key_of(question)
        slot = self._slot(key)
        return self._count(key, slot) if slot else self._evaluate(key, question)

    def _slot(self, key: Key) -> int:
        """The slot of a connection, if it is cached: from now on in the present generation."""
        slot = self.generation.slots.get(key, NO_SLOT)
        if not slot and (old := self._old.slots.get(key, NO_SLOT)):
            slot = self._keep(key, self._old.answers[old])
        return slot

    def _stored(self, key: Key, slot: int) -> int:
        """The answer in a slot."""
        stored = self.generation.answers[slot]
        return stored if stored >= 0 else self._hint(key, slot, ~stored)

    def _count(self, key: Key, slot: int) -> int:
        """The answer in a slot, not `NO_SLOT`, for one more connection."""
        self.generation.counts[slot] += 1
        return self._stored(key, slot)

    def _count_uncached(self, key: Key, answer: int) -> int:
        if self._flows is not None:
            self._flows.count_uncached(key, answer)
        return answer

    def _evaluate(self, key: Key, question: Question) -> int:
        if self._evaluator is None:
            return NO_ANSWER
        source, destination, protocol, port = question
        hints = self.with_hints and protocol in WITH_PORTS
        # One scan has tens of thousands of ports. If all are denied, only the pair gets an entry, here and in the kernel. With hints, the
        # key with port `EVERY_PORT` has no other meaning.
        pair = key_of((source, destination, protocol, EVERY_PORT)) if hints else key
        if hints and (slot := self._slot(pair)):
            return self._count_uncached(key, self._stored(pair, slot))  # the connection has a port, though its answer has none
        evaluator = self._evaluator
        answer = evaluator.answer(source, destination, protocol, port)
        if evaluator is not self._evaluator:  # the cache was emptied, and evaluations have other numbers
            answer = self._evaluator.answer(source, destination, protocol, port)
        if answer == HOLD:
            return HOLD
        self.misses += 1
        answer |= _SERIES_BITS[len(source)][protocol]
        cached = key
        if hints and answer & _ON_EVERY_PORT:
            cached = pair
        elif protocol in UNKEYED_PROTOCOLS or (hints and port == EVERY_PORT):
            return self._count_uncached(key, answer)
        number = hash(cached)
        place, mark = number & _SEEN_PLACES, number >> 16 & 0xFFFF
        if self._seen[place] == mark:  # two keys have the same mark once in 65,536 times
            slot = self._keep(cached, answer)
            if hints:
                self._hint(cached, slot, answer)
            if cached is key:
                self.generation.counts[slot] += 1
                return answer
        else:
            self._seen[place] = mark
        if self._flows is not None:
            self._flows.count_uncached(key, answer)
        return answer

    def _answer_for(self, evaluation: Evaluation, on_every_port: bool) -> int:
        """The answer of an evaluation, without the series."""
        verdict, egress, ingress, shadow = evaluation
        key: int | Evaluation = egress << 32 | ingress << 1 | verdict if shadow is None else evaluation
        answer = self._answers.get(key)
        if answer is None:
            flags = self._tier(egress) << ANSWER_EGRESS_SHIFT | self._tier(ingress) << ANSWER_INGRESS_SHIFT
            if self.view is not None and not verdict and self.view.is_rejected(egress or ingress):
                flags |= ANSWER_REJECTED
            if shadow is not None:
                flags |= ANSWER_AUDITED
            # A number that a snapshot has freed may be that of another decision later, with other flags.
            answer = self._all_answers.get((key, flags))
            if answer is None:
                if len(self._evaluations) >= MAX_EVALUATIONS and self.view is not None:
                    self._forget_answers()
                    self._evaluator = CachedEvaluator(self.view, self._answer_for, held=self._held)
                answer = len(self._evaluations) << _EVALUATION_SHIFT | flags | verdict
                self._all_answers[key, flags] = answer
                self._evaluations.append(evaluation)
            self._answers[key] = answer
        return answer | _ON_EVERY_PORT if on_every_port else answer

    def _tier(self, decision: int) -> int:
        """The tier of a decision + 1; 0 if there is none."""
        tier = None if self.view is None else self.view.tier(decision)
        return 0 if tier is None else tier + 1

    # --- what the recorder of flows asks ----------------------------------------------------------------------------------------------

    def index(self, answer: int) -> int:
        """The index of the evaluation of an answer."""
        return answer >> _EVALUATION_SHIFT

    def take_counts(self) -> Iterator[tuple[Key, int, int]]:
        """Key, answer and connections since the last call, of each cached connection that had any."""
        yield from self._old.take_counts()
        yield from self.generation.take_counts()

    def _forget_answers(self) -> None:
        if self._flows is not None:
            self._flows.leave(self)
        self.generation, self._old = Generation(), Generation()
        self._evaluations, self._answers, self._all_answers = [], {}, {}

    def _hint(self, key: Key, slot: int, answer: int) -> int:
        """Send a hint for the answer in a slot, or at a later lookup."""
        answers = self.generation.answers
        if answer & ANSWER_AUDITED or (answer & ANSWER_REJECTED and key not in self._limited):
            answers[slot] = (
                answer  # if the kernel answered, the difference would not show, or a denied packet would get no answer
            )
            return answer
        divisor = 1 if answer & 1 else 2
        if len(self._waiting) < MAX_WAITING_HINTS // divisor and len(self._hinted) < MAX_HINTS_A_WINDOW // divisor:
            self._waiting.append(key)
            self._hinted.append(key)
            answers[slot] = answer
        else:
            answers[slot] = ~answer
        return answer

    def _keep(self, key: Key, stored: int) -> int:
        """Store an answer. Returns its slot."""
        # Two generations bound the cache without bookkeeping per hit: an entry without a lookup is freed with the old generation.
        if len(self.generation.keys) > self._limit:
            if self._flows is not None:
                self._flows.count(self._old.take_counts())
            self._old, self.generation = self.generation, Generation()
        return self.generation.add(key, stored)

    def load(self, view: SnapshotReader, changed: Collection[bytes] | None) -> None:
        """Evaluate with another snapshot from now on. `changed`: address keys whose flows may have another decision; None: all.

        Raises `SnapshotError` if the snapshot visibly has offsets outside of itself. The present one stays in use then.
        """
        try:
            evaluator = CachedEvaluator(view, self._answer_for, held=self._held)
        except (IndexError, struct.error) as error:
            raise SnapshotError(f"snapshot {view.version} points outside of itself") from error
        if self._flows is not None:
            self._flows.leave(self)
        previous, self.view, self._evaluator = self.view, view, evaluator
        self._waiting.clear()  # decisions of the previous version
        self._answers = {}
        if previous is None or changed is None:
            self._forget_answers()
        else:
            affected = {packed_address(key) for key in changed}
            for generation in (self.generation, self._old):
                # Most changes are about pods without a cached connection: then there is no need to scan the generation.
                if not affected.isdisjoint(generation.addresses):
                    for key in [key for key in generation.slots if not affected.isdisjoint(question_of(key)[:2])]:
                        del generation.slots[key]
        if previous is not None:
            previous.close()

    # --- hints --------------------------------------------------------------------------------------------------------------------

    @property
    def has_hints(self) -> bool:
        """Whether there are hints that `take_hints` has not returned yet."""
        return bool(self._waiting)

    def take_hints(self, limit: int) -> list[CachedVerdict]:
        """Remove and return up to `limit` waiting hints: decisions of the present snapshot that were looked up again."""
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        hints = []
        for key in taken:
            stored = self._peek(key)
            if stored >= 0:
                source, destination, protocol, port = question_of(key)
                verdict, egress, ingress, _shadow = self.evaluation(stored)
                hints.append(
                    CachedVerdict(address_key(source), address_key(destination), port, protocol, verdict, egress, ingress)
                )
        return hints

    def _peek(self, key: Key) -> int:
        """The stored answer of a connection in either generation; `NOT_CACHED` if there is none."""
        slot = self.generation.slots.get(key, NO_SLOT)
        return self.generation.answers[slot] if slot else self._old.answers[self._old.slots.get(key, NO_SLOT)]

    def hint_denial(self, question: Question, answer: int) -> None:
        """Send a hint for a denial with answers, too, at its next lookup: its client has got all that the rate allows."""
        key = key_of(question if not answer & _ON_EVERY_PORT else (*question[:3], EVERY_PORT))
        if answer & ANSWER_AUDITED:
            return
        slot = self.generation.slots.get(key, NO_SLOT)
        is_stored = self.generation.answers[slot] == answer
        if key not in self._limited and len(self._limited) < MAX_HINTS_A_WINDOW // 2 and is_stored:
            self._limited.add(key)
            self.generation.answers[slot] = ~answer

    def reset_hint_window(self) -> None:
        """Allow a hint again for every decision: one that is looked up again is not, or no longer, in the kernel's verdict cache."""
        for key in self._hinted:
            for generation in (self.generation, self._old):
                slot = generation.slots.get(key, NO_SLOT)
                if slot and generation.answers[slot] >= 0:
                    generation.answers[slot] = ~generation.answers[slot]
        self._hinted.clear()
        self._waiting.clear()
        self._limited.clear()

    def __len__(self) -> int:
        return len(self.generation.slots) + len(self._old.slots)
