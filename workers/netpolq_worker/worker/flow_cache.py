"""The flow cache: a bounded cache of answers for connections, in front of the snapshot evaluator. Pure: no kernel, no clock.

The cache key is everything that, by the API, can change a verdict: addresses, protocol and destination port. It has the layout that one
`struct` call takes out of a packet with a plain header (`netpolq_worker.worker.packet`).
"""

import struct

from array import array
from collections.abc import Collection, Iterator

from netpolq.addresses import IPV4_MAPPED_PREFIX, address_key, packed_address
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
ANSWER_FLOW_SHIFT = 32
"""An answer shifted by this is the number of its flow, 0 if it has none (`netpolq_worker.worker.flow_recorder`)."""
_WITHOUT_FLOW = (1 << ANSWER_FLOW_SHIFT) - 1

_SEEN_SLOTS = 1 << 16

_NO_RANGES = AddressRanges()


class FlowCache:
    """Answers with the newest loaded snapshot. `view` None: there is no snapshot yet, and every answer is `NO_ANSWER`.

    An **answer** is
    `flow << 32 | evaluation << 12 | audited << 11 | rejected << 10 | every port << 9 | egress << 7 | ingress << 5 | series << 1 | verdict`:
    the number of a flow, if flows are recorded and the connection is cached; the index of an evaluation (see `evaluation`), which names
    the decisions; `ANSWER_REJECTED`; whether it is the same on every port of the protocol; the tier that decided each direction (0:
    none, otherwise `Tier` + 1); and the series to count the packet in (`series_of` in `netpolq_worker.worker.packet`). A stored answer
    may be inverted (`~answer`, negative): then the next lookup sends a hint. Decisions keep their numbers from snapshot to snapshot, so
    answers for addresses that a snapshot does not change stay valid.

    `cache`: stored answers by key, for the packet path to look up. What is not there, or negative, goes through `answer_key`. `answer`,
    `answer_key` and `load` replace the dictionary now and then. `misses`: answers made from the snapshot.

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
        self.cache: dict[Key, int] = {}
        self.misses = 0
        self._evaluator: CachedEvaluator[int] | None = None
        self._flows = flows
        self._limit = generation_entries
        self.with_hints = with_hints
        self._seen = array("H", bytes(2 * _SEEN_SLOTS))
        self._old: dict[Key, int] = {}
        self._addresses: set[bytes] = set()
        self._old_addresses: set[bytes] = set()
        self._waiting: list[Key] = []
        self._hinted: list[Key] = []
        self._limited: set[Key] = set()  # denials whose packets get no answer at present
        self._evaluations: list[Evaluation] = []
        self._answers: dict[int | Evaluation, int] = {}  # of evaluations with the present snapshot, without series
        self._all_answers: dict[tuple[int | Evaluation, int], int] = {}  # the same of all snapshots, by evaluation and flags

    def evaluation(self, answer: int) -> Evaluation:
        """The evaluation of an answer that was returned since the last call of `load`."""
        return self._evaluations[(answer & _WITHOUT_FLOW) >> _EVALUATION_SHIFT]

    def flush_flows(self) -> None:
        """Write the flows that were recorded. Call it a few times a second."""
        if self._flows is not None:
            self._flows.flush(self)

    def answer_key(self, key: Key, stored: int) -> int:
        """The answer for a packet by its key, or `HOLD`; `NO_ANSWER` if the packet must be parsed and passed to `answer`.

        `stored`: what `cache` has for the key: `NOT_CACHED`, or a negative value.
        """
        if stored == NOT_CACHED:
            stored = self._old.get(key, NOT_CACHED) if self._old else NOT_CACHED  # the test saves hashing the key once more
            if stored == NOT_CACHED:
                question = plain_question(key)
                return NO_ANSWER if question is None else self._evaluate(key, question)
            self._keep(key, stored)
        return stored if stored >= 0 else self._hint(key, ~stored)

    def answer(self, question: Question) -> int:
        """The answer for a connection; `NO_ANSWER` if there is no snapshot, or `HOLD`."""
        key = key_of(question)
        stored = self._lookup(key)
        return self._evaluate(key, question) if stored is None else stored

    def _lookup(self, key: Key) -> int | None:
        stored = self.cache.get(key)
        if stored is None:
            stored = self._old.get(key)
            if stored is None:
                return None
            self._keep(key, stored)
        return stored if stored >= 0 else self._hint(key, ~stored)

    def _evaluate(self, key: Key, question: Question) -> int:
        if self._evaluator is None:
            return NO_ANSWER
        source, destination, protocol, port = question
        hints = self.with_hints and protocol in WITH_PORTS
        # One scan has tens of thousands of ports. If all are denied, only the pair gets an entry, here and in the kernel. With hints, the
        # key with port `EVERY_PORT` has no other meaning.
        pair = key_of((source, destination, protocol, EVERY_PORT)) if hints else key
        if hints and (stored := self._lookup(pair)) is not None:
            if self._flows is not None:
                self._flows.list_uncached(key, stored)  # the flow has a port, though its answer has none
            return stored
        family = len(source)
        if family == 4:
            source, destination = IPV4_MAPPED_PREFIX + source, IPV4_MAPPED_PREFIX + destination
        evaluator = self._evaluator
        answer = evaluator.answer(source, destination, protocol, port)
        if evaluator is not self._evaluator:  # the cache was emptied, and evaluations have other numbers
            answer = self._evaluator.answer(source, destination, protocol, port)
        if answer == HOLD:
            return HOLD
        self.misses += 1
        answer |= series_of(protocol, family) << ANSWER_SERIES_SHIFT
        asked = key
        if hints and answer & _ON_EVERY_PORT:
            key = pair
        elif protocol in UNKEYED_PROTOCOLS or (hints and port == EVERY_PORT):
            if self._flows is not None:
                self._flows.list_uncached(asked, answer)
            return answer
        if self._seen_before(key):
            if self._flows is not None:
                answer = self.numbered(answer, self._flows.number(key))
            self._keep(key, answer)
            if hints:
                self._hint(key, answer)
        if self._flows is not None and self.cache.get(asked) != answer:
            self._flows.list_uncached(asked, answer)
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
        return (answer & _WITHOUT_FLOW) >> _EVALUATION_SHIFT

    def flow_number(self, answer: int) -> int:
        """The number of the flow of an answer; 0 if it has none."""
        return answer >> ANSWER_FLOW_SHIFT

    def numbered(self, answer: int, number: int) -> int:
        """The answer with a flow number."""
        return answer & _WITHOUT_FLOW | number << ANSWER_FLOW_SHIFT

    def cached_answers(self) -> Iterator[int]:
        """The answers of all cached connections."""
        for generation in (self.cache, self._old):
            yield from (stored if stored >= 0 else ~stored for stored in generation.values())

    def _forget_answers(self) -> None:
        if self._flows is not None:
            self._flows.leave(self)
            self._flows.forget_numbers()
        self.cache, self._addresses = {}, set()
        self._old, self._old_addresses = {}, set()
        self._evaluations, self._answers, self._all_answers = [], {}, {}

    def _seen_before(self, key: Key) -> bool:
        """Whether a key was looked up recently; marks it as seen. Two keys have the same mark once in 65,536 times."""
        mark = hash(key)
        slot = mark % _SEEN_SLOTS
        mark = mark >> 16 & 0xFFFF
        if self._seen[slot] == mark:
            return True
        self._seen[slot] = mark
        return False

    def _hint(self, key: Key, answer: int) -> int:
        if answer & ANSWER_AUDITED or (answer & ANSWER_REJECTED and key not in self._limited):
            self.cache[key] = (
                answer  # if the kernel answered, the difference would not show, or a denied packet would get no answer
            )
            return answer
        divisor = 1 if answer & 1 else 2
        if len(self._waiting) < MAX_WAITING_HINTS // divisor and len(self._hinted) < MAX_HINTS_A_WINDOW // divisor:
            self._waiting.append(key)
            self._hinted.append(key)
            self.cache[key] = answer
        else:
            self.cache[key] = ~answer
        return answer

    def _keep(self, key: Key, stored: int) -> None:
        # Two generations bound the cache without bookkeeping per hit: an entry without a lookup is freed with the old generation.
        if len(self.cache) >= self._limit:
            self._old, self._old_addresses = self.cache, self._addresses
            self.cache, self._addresses = {}, set()
        self.cache[key] = stored
        self._addresses.update(question_of(key)[:2])

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
            for generation, addresses in ((self.cache, self._addresses), (self._old, self._old_addresses)):
                # Most changes are about pods without a cached connection: then there is no need to scan the generation.
                if not affected.isdisjoint(addresses):
                    for key in [key for key in generation if not affected.isdisjoint(question_of(key)[:2])]:
                        del generation[key]
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
            stored = self.cache.get(key, self._old.get(key))
            if stored is not None and stored >= 0:
                source, destination, protocol, port = question_of(key)
                verdict, egress, ingress, _shadow = self.evaluation(stored)
                hints.append(
                    CachedVerdict(address_key(source), address_key(destination), port, protocol, verdict, egress, ingress)
                )
        return hints

    def hint_denial(self, question: Question, answer: int) -> None:
        """Send a hint for a denial with answers, too, at its next lookup: its client has got all that the rate allows."""
        key = key_of(question if not answer & _ON_EVERY_PORT else (*question[:3], EVERY_PORT))
        if answer & ANSWER_AUDITED:
            return
        if key not in self._limited and len(self._limited) < MAX_HINTS_A_WINDOW // 2 and self.cache.get(key) == answer:
            self._limited.add(key)
            self.cache[key] = ~answer

    def reset_hint_window(self) -> None:
        """Allow a hint again for every decision: one that is looked up again is not, or no longer, in the kernel's verdict cache."""
        for key in self._hinted:
            for generation in (self.cache, self._old):
                stored = generation.get(key)
                if stored is not None and stored >= 0:
                    generation[key] = ~stored
        self._hinted.clear()
        self._waiting.clear()
        self._limited.clear()

    def __len__(self) -> int:
        return len(self.cache) + len(self._old)
