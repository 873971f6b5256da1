"""Question + snapshot → verdict, through a bounded cache. Pure: no kernel, no clock.

The question is the cache key: by the API nothing else can change a verdict.
"""

from collections.abc import Collection

from netpolq.addresses import IPV4_MAPPED_PREFIX
from netpolq.enums import Verdict
from netpolq.snapshot.view import SnapshotView

Question = tuple[bytes, bytes, int, int]
"""Source, destination, protocol and destination port of a connection, in its original direction."""

GENERATION_ENTRIES = 32768
"""Entries of one cache generation; two generations are kept, about 180 bytes an entry."""


class Decider:
    """Answers questions by the newest snapshot it was given. `view` None: there is no snapshot yet, and nothing can be judged."""

    def __init__(self, generation_entries: int = GENERATION_ENTRIES) -> None:
        self.view: SnapshotView | None = None
        self.misses = 0
        self._limit = generation_entries
        self._young: dict[Question, Verdict] = {}
        self._old: dict[Question, Verdict] = {}

    def decide(self, question: Question) -> Verdict | None:
        """The verdict on a connection, or None without a snapshot."""
        verdict = self._young.get(question)
        if verdict is None:
            verdict = self._old.get(question)
            if verdict is None:
                verdict = self._judge(question)
                if verdict is None:
                    return None
            self._keep(question, verdict)
        return verdict

    def _judge(self, question: Question) -> Verdict | None:
        if self.view is None:
            return None
        self.misses += 1
        source, destination, protocol, port = question
        if len(source) == 4:
            source, destination = IPV4_MAPPED_PREFIX + source, IPV4_MAPPED_PREFIX + destination
        return self.view.judge(source, destination, protocol, port).verdict

    def _keep(self, question: Question, verdict: Verdict) -> None:
        # Two generations bound the cache without bookkeeping per hit: what is not asked for again falls out with the old one.
        if len(self._young) >= self._limit:
            self._old = self._young
            self._young = {}
        self._young[question] = verdict

    def adopt(self, view: SnapshotView, changed: Collection[bytes] | None) -> None:
        """Judge by another snapshot from now on. `changed`: address keys whose flows may be judged differently; None: all."""
        previous, self.view = self.view, view
        if previous is None or changed is None:
            self._young = {}
            self._old = {}
        elif changed:
            affected = {key[12:] if key.startswith(IPV4_MAPPED_PREFIX) else key for key in changed}
            for generation in (self._young, self._old):
                for question in [question for question in generation if question[0] in affected or question[1] in affected]:
                    del generation[question]
        if previous is not None:
            previous.close()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
