"""The description of a command: what runs, and what its help page contains."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A command. `run` takes the arguments after the command's name and returns the exit code.

    `usage`: the arguments as the usage line shows them. `summary`: one line for the list of commands; an empty summary keeps the command
    off the list. `details`: the middle of the help page. `examples`: complete command lines and comments for its end.
    """

    run: Callable[[Sequence[str]], int]
    usage: str
    summary: str
    details: Callable[[], str]
    examples: tuple[str, ...] = ()
