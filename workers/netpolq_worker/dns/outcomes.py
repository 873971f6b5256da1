"""What becomes of DNS messages, and the counts of that."""

from dataclasses import dataclass, field
from enum import StrEnum


class MessageKind(StrEnum):
    """Direction of a message: from the pod, or to it."""

    QUERY = "query"
    RESPONSE = "response"


class Outcome(StrEnum):
    """What became of a message. Every message goes on to a worker; only LEARNED and LATE have waited.

    NOTED: a query, whose response will be read. LEARNED: its addresses came in force. REPEATED: they were in force. NOTHING_NEW: it has no
    address that could be learned. UNTRUSTED: to or from a server that is no resolver; over TCP, each segment counts. UNMATCHED: no open
    query has its ends, id and question. MALFORMED: it cannot be read. TRUNCATED: the server asks for TCP. LATE: its addresses were not in
    force in time. OVERFLOW: too many others waited. UNFOLLOWED: a segment of a TCP connection that is not reassembled. ORPHANED: another
    process had read its packet, and ended.
    """

    NOTED = "noted"
    LEARNED = "learned"
    REPEATED = "repeated"
    NOTHING_NEW = "nothing-new"
    UNTRUSTED = "untrusted"
    UNMATCHED = "unmatched"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    LATE = "late"
    OVERFLOW = "overflow"
    UNFOLLOWED = "unfollowed"
    ORPHANED = "orphaned"


@dataclass(slots=True)
class Tally:
    """Counts since they were last written. `cut_answers`: responses with more addresses than were learned.

    `held`, `released`: packets that began and ended to wait; `delay_ns`: how long the released ones waited, in total.
    """

    messages: dict[tuple[MessageKind, Outcome], int] = field(default_factory=dict)
    cut_answers: int = 0
    held: int = 0
    released: int = 0
    delay_ns: int = 0

    def count(self, kind: MessageKind, outcome: Outcome, messages: int = 1) -> None:
        """Count messages."""
        self.messages[kind, outcome] = self.messages.get((kind, outcome), 0) + messages
