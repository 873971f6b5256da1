"""The queries that pods have sent and whose responses may still come: only the response to one of them is read."""

from netpolq_worker.dns.message import Question
from netpolq_worker.dns.pod_table import PodTable
from netpolq_worker.dns.transport import Connection

MAX_QUERIES = 16_384
MAX_QUERIES_OF_POD = 1024
EXPIRY_NS = 10_000_000_000
"""Twice the time after which a resolver library asks again (resolv.conf(5): timeout)."""
REPEAT_NS = 1_000_000_000
"""How long a query stays after its first response. A copy of the response must not overtake the first, which may wait as long."""


class OpenQueries:
    """A bounded table. Times are monotonic nanoseconds."""

    def __init__(self) -> None:
        self._expiries: PodTable[tuple[Connection, Question], int] = PodTable(MAX_QUERIES, MAX_QUERIES_OF_POD)

    def __len__(self) -> int:
        return len(self._expiries)

    def note(self, connection: Connection, question: Question, now_ns: int) -> None:
        """Record a query."""
        self._expiries.put(connection.pod, (connection, question), now_ns + EXPIRY_NS)

    def has(self, connection: Connection, question: Question, now_ns: int) -> bool:
        """Whether this query is open."""
        expiry_ns = self._expiries.get((connection, question))
        return expiry_ns is not None and now_ns < expiry_ns

    def take(self, connection: Connection, question: Question, now_ns: int) -> bool:
        """Whether a response with these ends and this question answers an open query, which stays open for its copies."""
        key = connection, question
        expiry_ns = self._expiries.get(key)
        if expiry_ns is None or now_ns >= expiry_ns:
            return False
        self._expiries.put(connection.pod, key, min(expiry_ns, now_ns + REPEAT_NS))
        return True
