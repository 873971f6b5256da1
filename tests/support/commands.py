"""Commands of netpolq in the process of the test, which need not start and import what the test has."""

import io

from contextlib import redirect_stderr, redirect_stdout

from netpolq import cli


def in_process(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    output = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(output, write_through=True)), redirect_stderr(io.StringIO()) as errors:
        code = cli.main(words)
        printed = output.getvalue().decode()
    return code, printed, errors.getvalue()
