"""Log lines on standard error, as text or one JSON object a line with stable keys."""

import contextlib
import json
import logging
import sys
import time

from collections.abc import Callable, Mapping
from typing import TextIO

from netpolq.enums import LoggingFormat

PACKET_LOG_VERBOSITY = 2
"""From this verbosity on, workers write a line for each packet that they evaluate."""

DETAIL_VERBOSITY = 1
"""From this verbosity on, lines of level `DETAIL` are written: each version in force, and its changes."""

DEBUG_VERBOSITY = 4
"""From this verbosity on, debug lines are written: steps of a change through supervisor, pool and workers."""

DETAIL = 15
"""Level between INFO and DEBUG."""

PACKET_LOG = "packet"
"""Name of the logger of packet lines, which has its own rate limit."""

LINES_PER_S = 1
BURST_LINES = 100
"""Rate limit for each source line that logs: outside input must not be able to fill a disk."""


def one_line(text: str) -> str:
    """The text with control characters escaped, such as line ends: file names may contain any character."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class TokenBucket:
    """Token bucket: allows `rate_per_s`, and bursts of `burst`. `refused`: refusals since the caller last set it to 0."""

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_s = clock()
        self.refused = 0

    def take(self) -> bool:
        """Take a token. Returns whether there was one."""
        now_s = self._clock()
        self._tokens = min(self._tokens + (now_s - self._filled_s) * self._rate_per_s, self._burst)
        self._filled_s = now_s
        if self.is_empty:
            self.refused += 1
            return False
        self._tokens -= 1
        return True

    @property
    def is_empty(self) -> bool:
        """Whether there was no token left at the last `take`."""
        return self._tokens < 1


class Limit(logging.Filter):
    """Limits the rate of lines from each source line, and notes how many were dropped. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._buckets: dict[tuple[str, int], TokenBucket] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line. May append a remark on dropped lines."""
        if record.name == PACKET_LOG:
            return True
        origin = record.pathname, record.lineno
        bucket = self._buckets.get(origin)
        if bucket is None:
            bucket = self._buckets[origin] = TokenBucket(LINES_PER_S, BURST_LINES, self._clock)
        if not bucket.take():
            return False
        if bucket.refused:
            remark = f" (and {bucket.refused} lines like this that were left out)"
            bucket.refused = 0
        elif bucket.is_empty:
            remark = f" (of lines like this, {LINES_PER_S} a second is written from now on)"
        else:
            return True
        record.msg, record.args = record.getMessage() + remark, ()
        return True


class _Text(logging.Formatter):
    """Text format: `2026-01-31T12:00:00.123Z INFO pool[12]: message`. A traceback follows on separate lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s[%(process)d]: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # name defined by logging
        return one_line(super().formatMessage(record))


class _Json(logging.Formatter):
    """Keys of every line: ts (RFC 3339, UTC), level, component, pid, msg (the whole text line), and error where an exception is logged.

    A record's `fields` (given as `extra={"fields": …}`) become further keys. Lines of component `packet` have these, null if unknown:

        queue               number of the queue
        verdict             accept, drop
        reason              allowed, denied, not-isolated, same-address; malformed, no-snapshot, error
        direction, policy   egress or ingress, and the policy whose rule decided
        egress, ingress     the decision of each direction: tier, policy, rule (0-based), rule_name and action; or isolated_by (ns/name);
                            deny_with "reject" if denied packets get an answer
        protocol            TCP, UDP, SCTP, ICMP, ICMPv6, or the number
        source_ip, source_port, source_pod, destination_ip, destination_port, destination_pod
                            of the connection in its original direction; pods as ns/name
        reply               true: the packet goes in reply direction; the verdict is that of its connection
        snapshot            version of the snapshot, 0 for none
        processing_us       microseconds from the packet's arrival in the worker to its verdict

    and, where the rate limit drops lines: queue, suppressed (number of packets).
    """

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "component": record.name,
            "pid": record.process,
            "msg": record.getMessage(),
        }
        fields: Mapping[str, object] = getattr(record, "fields", {})
        entry.update(fields)
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def write_error(message: str, logging_format: LoggingFormat, stream: TextIO | None = None) -> None:
    """Write the error that ends a program as one line: `netpolq: error: …`, or the JSON object of a log line.

    Raises nothing if the stream cannot be written: there is no other output.
    """
    output = stream if stream is not None else sys.stderr
    text = one_line(" ".join(message.splitlines()))
    if logging_format is LoggingFormat.JSON:
        line = _Json().format(logging.LogRecord("netpolq", logging.ERROR, "", 0, text, (), None))
    else:
        line = f"netpolq: error: {text}"
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed or absent
        output.write(line + "\n")
        output.flush()


def configure(logging_format: LoggingFormat, verbosity: int, stream: TextIO | None = None) -> None:
    """Set up the root logger."""
    output = logging.StreamHandler(stream if stream is not None else sys.stderr)
    output.addFilter(Limit())
    output.setFormatter(_Json() if logging_format is LoggingFormat.JSON else _Text())
    logging.addLevelName(DETAIL, "DETAIL")
    logging.basicConfig(handlers=[output], force=True)
    set_verbosity(verbosity)


def logs_packets(verbosity: int) -> bool:
    """Whether workers write a line for each packet."""
    return verbosity >= PACKET_LOG_VERBOSITY


def set_verbosity(verbosity: int) -> None:
    """Set the verbosity of this process and of those that it forks from now on."""
    levels = {DETAIL_VERBOSITY: DETAIL, DEBUG_VERBOSITY: logging.DEBUG}
    logging.getLogger().setLevel(min((level for at, level in levels.items() if verbosity >= at), default=logging.INFO))
