"""Commands of netpolq, in the process of the test, which need not start and import what the test has, or as programs.

Commands that ask an API server are programs: their last connections close while they end, and in the test's process that is a leak.
"""

import io
import subprocess

from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from netpolq import cli

_LIMIT_S = 60.0


def as_program(argv: Sequence[str], expected: int) -> tuple[str, str]:
    """Standard output and standard error of a program that must end with this exit code."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert done.returncode == expected, done.stderr
    return done.stdout, done.stderr


def in_process(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    output = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(output, write_through=True)), redirect_stderr(io.StringIO()) as errors:
        code = cli.main(words)
        printed = output.getvalue().decode()
    return code, printed, errors.getvalue()
