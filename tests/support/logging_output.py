"""What the log says, as a program of ours writes it."""

import io
import logging

from collections.abc import Iterator
from contextlib import contextmanager

from netpolq.enums import LoggingFormat
from netpolq.logs import configure


@contextmanager
def logging_output(logging_format: LoggingFormat, verbosity: int = 0) -> Iterator[io.StringIO]:
    """What is written from now on, with the set-up of a program. Afterwards logging is as it was before."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    output = io.StringIO()
    configure(logging_format, verbosity, output)
    try:
        yield output
    finally:
        root.handlers[:] = before
        root.setLevel(level)
