"""The output of the log, as the agent's programs write it."""

import io
import logging

from collections.abc import Iterator
from contextlib import contextmanager

from netpolq.enums import LoggingFormat
from netpolq.logs import configure


@contextmanager
def logging_output(logging_format: LoggingFormat, verbosity: int = 0) -> Iterator[io.StringIO]:
    """The lines that are written inside the context, with the log configuration of a program. It restores the former configuration."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    output = io.StringIO()
    configure(logging_format, verbosity, output)
    try:
        yield output
    finally:
        root.handlers[:] = before
        root.setLevel(level)
