"""Log lines on standard error, as text or one JSON object a line with stable keys."""

import json
import logging
import sys
import time

from typing import TextIO

from netpolq.enums import LoggingFormat


class _Text(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO pool[12]: message`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s[%(process)d]: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime


class _Json(logging.Formatter):
    """Keys: ts (RFC 3339, UTC), level, component, pid, msg, and error where an exception is logged."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "component": record.name,
            "pid": record.process,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(logging_format: LoggingFormat, verbosity: int, stream: TextIO | None = None) -> None:
    """Set up the root logger. `verbosity` 4 and more shows debug lines, as in klog."""
    output = logging.StreamHandler(stream if stream is not None else sys.stderr)
    output.setFormatter(_Json() if logging_format is LoggingFormat.JSON else _Text())
    logging.basicConfig(level=logging.DEBUG if verbosity >= 4 else logging.INFO, handlers=[output], force=True)
