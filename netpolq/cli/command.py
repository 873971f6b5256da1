"""The description of a command: what runs, and what its help page, the manual page and the completion tell about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from netpolq.errors import ExitCode
from netpolq.settings.options import Option, OptionGroup
from netpolq.settings.usage import grouped_flags, paragraph
from netpolq.settings.value_types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command. `run` takes the arguments after the command's name and returns the exit code.

    `usage`: the arguments as the usage line shows them. `summary`: one line for the list of commands; an empty summary keeps the command
    off the list. `about`: paragraphs. `groups`: its flags. `words`: what its first argument can be. `paths`: what arguments without
    a flag name, for the completion. `examples`: complete command lines and comments.
    """

    run: Callable[[Sequence[str]], int]
    usage: str = ""
    summary: str
    about: tuple[str, ...] = ()
    groups: tuple[OptionGroup, ...] = ()
    words: tuple[str, ...] = ()
    paths: Completion = Completion.NOTHING
    exit_codes: Mapping[ExitCode, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[Option[object], ...]:
        """All flags."""
        return tuple(option for group in self.groups for option in group.options)

    def help_page(self, name: str) -> str:
        """Return the output of `netpolq help NAME`."""
        codes = "".join(f"\n  {code.value}  {text}" for code, text in self.exit_codes.items())
        examples = "".join(f"\n  {line}" for line in self.examples)
        parts = (
            " ".join(part for part in ("usage: netpolq", name, self.usage) if part),
            self.summary,
            *map(paragraph, self.about),
            grouped_flags(self.groups).rstrip("\n"),
            codes and f"Exit codes:{codes}",
            examples and f"Examples:{examples}",
        )
        return "\n\n".join(part for part in parts if part) + "\n"


def first_argument(argv: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Return the argument in front of the flags, None without one, and the rest."""
    return (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)


def plain(*options: Option[object]) -> tuple[OptionGroup, ...]:
    """Return the flags as one group without a heading."""
    return (OptionGroup("", options),)
