"""The flow recorder of a worker: counts connections by flow, and writes the counts to its flow memory a few times a second.

On the packet path it costs an increment: the flow cache has a count for each cached connection. A connection that is not cached is listed
by its key, up to `MAX_LISTED` between two writes. Above that, in a scan or a flood, and when `MAX_WAITING` flows wait for room in the flow
memory, connections are counted by their decisions alone, without their ends. So the work and the memory that an outsider can cause here
are bounded, and the sums are right in any case.
"""

import time

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from netpolq.addresses import address_key
from netpolq.enums import Verdict
from netpolq.ipc.channel import EVERY_PORT
from netpolq.ipc.flow_memory import MAX_COUNTS, Flag, FlowWriter, Reasons, encode_reasons, pack_count
from netpolq.snapshot.reader import Evaluation, SnapshotReader
from netpolq_worker.worker.packet import WITH_PORTS, Key, question_of

MAX_LISTED = 256
"""Connections that are not cached and are listed between two writes. Each costs the worker some microseconds, and the supervisor more: in
a flood, a thousand of them took a tenth of all that the node had."""

MAX_LISTED_OF_A_FLOOD = 64
"""The same after an interval in which there were more than could be listed."""

MAX_DEFINITION_BYTES = 64 * 1024
"""Definitions in a chunk, after which the next one begins: so a chunk always fits into an empty ring, whatever the policies."""

MAX_CHUNKS = 4
"""Chunks written at once before another snapshot is used."""

MAX_WAITING = 1 << 14
"""Flows that wait for room in the flow memory: as many as connections are cached. Without a supervisor no room comes."""

_NO_ENDS = bytes(16)

_Counted = tuple[Key | None, int]
"""A flow: key and answer. Key None: the ends are not recorded."""


class Answers(Protocol):
    """What the flow cache tells of its answers. `view`: the snapshot that they were made with."""

    view: SnapshotReader | None

    def index(self, answer: int) -> int:
        """The index of the evaluation of an answer."""
        ...

    def evaluation(self, answer: int) -> Evaluation:
        """The evaluation of an answer."""
        ...

    def take_counts(self) -> Iterator[tuple[Key, int, int]]:
        """Key, answer and connections since the last call, of each cached connection that had any."""
        ...


class FlowRecorder:
    """Counts the connections of one worker. `writer`: of its flow memory. `denied_only`: accepted connections are not recorded."""

    def __init__(self, writer: FlowWriter, *, denied_only: bool, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._writer = writer
        self._denied_only = denied_only
        self._clock_ns = clock_ns
        self._listed: list[_Counted] = []
        self._max_listed = MAX_LISTED
        self._unlisted: defaultdict[int, int] = defaultdict(int)
        self._waiting: dict[_Counted, int] = {}
        self._started_ns = clock_ns()

    # --- called by the flow cache ---------------------------------------------------------------------------------------------------

    def count_uncached(self, key: Key, answer: int) -> None:
        """Count a connection that is not cached."""
        if len(self._listed) < self._max_listed:
            self._listed.append((key, answer))
        else:
            self._unlisted[answer] += 1

    def count(self, counts: Iterable[tuple[Key | None, int, int]]) -> None:
        """Count connections. `counts`: key, answer and number; see `Answers.take_counts`. Key None: without ends."""
        waiting = self._waiting
        for key, answer, count in counts:
            if self._denied_only and answer & 1:
                continue
            flow: _Counted = key, answer
            if len(waiting) >= MAX_WAITING and flow not in waiting:
                flow = None, answer
            waiting[flow] = waiting.get(flow, 0) + count

    def leave(self, answers: Answers) -> None:
        """Write what was counted, before numbers of decisions get another meaning. What does not fit is counted as lost."""
        self.flush(answers, MAX_CHUNKS)
        lost = sum(self._waiting.values())
        if lost:
            self._writer.lose(lost)
            self._waiting.clear()

    # --- called by the worker's loop ------------------------------------------------------------------------------------------------

    def flush(self, answers: Answers, max_chunks: int = 1) -> None:
        """Write what was counted, in so many chunks at most; the rest waits for the next call."""
        now_ns = self._clock_ns()
        self.count(answers.take_counts())
        self.count((key, answer, 1) for key, answer in self._listed)
        self.count((None, answer, count) for answer, count in self._unlisted.items())
        self._max_listed = MAX_LISTED_OF_A_FLOOD if self._unlisted else MAX_LISTED
        self._listed.clear()
        self._unlisted.clear()
        if answers.view is not None:
            for _number in range(max_chunks):
                if not self._waiting or not self._write(answers, answers.view, now_ns):
                    break
        self._started_ns = now_ns

    def _write(self, answers: Answers, view: SnapshotReader, now_ns: int) -> bool:
        taken: list[_Counted] = []
        counts: list[bytes] = []
        definitions: dict[int, bytes] = {}
        definition_bytes = 0
        for (key, answer), count in islice(self._waiting.items(), MAX_COUNTS):
            taken.append((key, answer))
            index = answers.index(answer)
            if index not in definitions:
                definitions[index] = encode_reasons(_reasons(view, answers.evaluation(answer)))
                definition_bytes += len(definitions[index])
            counts.append(_packed(key, answer, index, count))
            if definition_bytes > MAX_DEFINITION_BYTES:
                break
        if not self._writer.write(self._started_ns, now_ns, tuple(definitions.items()), counts):
            return False
        for flow in taken:
            del self._waiting[flow]
        return True


def _packed(key: Key | None, answer: int, index: int, count: int) -> bytes:
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
