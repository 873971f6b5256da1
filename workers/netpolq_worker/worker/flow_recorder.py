"""The flow recorder of a worker: counts connections by flow, and writes the counts to its flow memory a few times a second.

On the packet path it costs an element of a list for each packet: its answer. A cached connection has a flow number in its answer
(`netpolq_worker.worker.flow_cache.ANSWER_FLOW_SHIFT`), so counting answers counts flows. A connection that is not cached has no number; it
is listed by its key, up to `MAX_LISTED` between two writes. Above that, and in a scan or a flood, connections are counted by their
decisions alone, without their ends. So the work that an outsider can cause here is bounded, and the sums are right in any case.
"""

import time

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol

from netpolq.addresses import address_key
from netpolq.enums import Verdict
from netpolq.ipc.channel import EVERY_PORT
from netpolq.ipc.flow_memory import MAX_COUNTS, Flag, FlowWriter, Reasons, encode_reasons, pack_count
from netpolq.snapshot.reader import Evaluation, SnapshotReader
from netpolq_worker.worker.packet import WITH_PORTS, Key, question_of

MAX_LISTED = 1024
"""Connections without a flow number that are listed between two writes."""

MAX_NUMBERED = 1 << 15
"""Flow numbers in use before those of connections that are no longer cached are freed."""

MAX_DEFINITION_BYTES = 64 * 1024
"""Definitions in a chunk, after which the next one begins: so a chunk always fits into an empty ring, whatever the policies."""

MAX_CHUNKS = 4
"""Chunks written at once before another snapshot is used."""

MAX_WAITING = 1 << 14
"""Counts that wait for room in the flow memory: as many as connections are cached. Without a supervisor no room comes."""

_NO_ENDS = bytes(16)


class Answers(Protocol):
    """What the flow cache tells of its answers. `view`: the snapshot that they were made with."""

    view: SnapshotReader | None

    def index(self, answer: int) -> int:
        """The index of the evaluation of an answer."""
        ...

    def evaluation(self, answer: int) -> Evaluation:
        """The evaluation of an answer."""
        ...

    def flow_number(self, answer: int) -> int:
        """The number of the flow of an answer; 0 if it has none."""
        ...

    def numbered(self, answer: int, number: int) -> int:
        """The answer with a flow number."""
        ...

    def cached_answers(self) -> Iterable[int]:
        """The answers of all cached connections."""
        ...


class FlowRecorder:
    """Counts the connections of one worker. `writer`: of its flow memory. `denied_only`: accepted connections are not recorded.

    `answers`: the packet loop appends the answer of each packet.
    """

    def __init__(self, writer: FlowWriter, *, denied_only: bool, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.answers: list[int] = []
        self._writer = writer
        self._denied_only = denied_only
        self._clock_ns = clock_ns
        self._counts: Counter[int] = Counter()
        self._listed: list[tuple[Key, int]] = []
        self._keys: dict[int, Key] = {}
        self._last_number = 0
        self._started_ns = clock_ns()

    # --- called by the flow cache ---------------------------------------------------------------------------------------------------

    def number(self, key: Key) -> int:
        """A flow number for a connection that is about to be cached."""
        self._last_number += 1
        self._keys[self._last_number] = key
        return self._last_number

    def list_uncached(self, key: Key, answer: int) -> None:
        """List a connection that is not cached."""
        if len(self._listed) < MAX_LISTED and self._is_recorded(answer):
            self._listed.append((key, answer))

    def leave(self, answers: Answers) -> None:
        """Write what was counted, before numbers of decisions get another meaning. What does not fit is counted as lost."""
        self.flush(answers, MAX_CHUNKS)
        self._lose()

    def _lose(self) -> None:
        """Count what was not written as lost."""
        lost = sum(count for answer, count in self._counts.items() if count > 0 and self._is_recorded(answer))
        if lost:
            self._writer.lose(lost)
        self._counts.clear()

    def _is_recorded(self, answer: int) -> bool:
        return not (self._denied_only and answer & 1)

    def forget_numbers(self) -> None:
        """No answer with a flow number is in use any more."""
        self._keys.clear()

    # --- called by the worker's loop ------------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Count the answers that the packet loop has appended."""
        if self.answers:
            self._counts.update(self.answers)
            self.answers.clear()

    def flush(self, answers: Answers, max_chunks: int = 1) -> None:
        """Write what was counted, in so many chunks at most; the rest waits for the next call."""
        self.count()
        now_ns = self._clock_ns()
        if answers.view is not None:
            self._merge_listed(answers)
            for _number in range(max_chunks):
                if not self._counts or not self._write(answers, answers.view, now_ns):
                    break
        self._started_ns = now_ns
        if len(self._counts) > MAX_WAITING:
            self._lose()
        if len(self._keys) >= MAX_NUMBERED:
            self._free_numbers(answers)

    def _free_numbers(self, answers: Answers) -> None:
        """Free the numbers of connections that are no longer cached."""
        kept = {answers.flow_number(answer) for answer in (*answers.cached_answers(), *self._counts)}
        self._keys = {number: key for number, key in self._keys.items() if number in kept}

    def _merge_listed(self, answers: Answers) -> None:
        """Give each listed connection a number, and take it from the count of its answer, which has none."""
        numbers: dict[tuple[Key, int], int] = {}
        for listed in self._listed:
            key, answer = listed
            if self._counts.get(answer, 0) > 0:
                numbered = numbers.get(listed)
                if numbered is None:
                    numbered = numbers[listed] = answers.numbered(answer, self.number(key))
                self._counts[answer] -= 1
                self._counts[numbered] += 1
        self._listed.clear()

    def _write(self, answers: Answers, view: SnapshotReader, now_ns: int) -> bool:
        taken: list[int] = []
        counts: list[bytes] = []
        definitions: dict[int, bytes] = {}
        definition_bytes = 0
        for answer, count in islice(self._counts.items(), MAX_COUNTS):
            taken.append(answer)
            if count <= 0 or not self._is_recorded(answer):
                continue
            index = answers.index(answer)
            if index not in definitions:
                definitions[index] = encode_reasons(_reasons(view, answers.evaluation(answer)))
                definition_bytes += len(definitions[index])
            counts.append(self._packed(answers, answer, index, count))
            if definition_bytes > MAX_DEFINITION_BYTES:
                break
        if counts and not self._writer.write(self._started_ns, now_ns, tuple(definitions.items()), counts):
            return False
        for answer in taken:
            del self._counts[answer]
        return True

    def _packed(self, answers: Answers, answer: int, index: int, count: int) -> bytes:
        key = self._keys.get(answers.flow_number(answer))
        if key is None:
            return pack_count(_NO_ENDS, _NO_ENDS, 0, 0, Flag.ANONYMOUS, index, count)
        source, destination, protocol, port = question_of(key)
        is_every_port = port == EVERY_PORT and protocol in WITH_PORTS and not answer & 1
        flags = Flag.EVERY_PORT if is_every_port else 0
        return pack_count(address_key(source), address_key(destination), port, protocol, flags, index, count)


def _reasons(view: SnapshotReader, evaluation: Evaluation) -> Reasons:
    verdict, egress, ingress, shadow = evaluation
    enforced = verdict is Verdict.ACCEPT, view.decision(egress), view.decision(ingress)
    if shadow is None:
        return Reasons(*enforced)
    return Reasons(*enforced, shadow.verdict is Verdict.ACCEPT, view.decision(shadow.egress), view.decision(shadow.ingress))
