"""The flag lists of `--help`, and the texts about a flag that the manual page has too."""

import textwrap

from collections.abc import Iterator, Sequence

from netpolq.settings.definitions import OPTIONS
from netpolq.settings.options import Option, OptionGroup

_WIDTH = 110


def grouped_flags(groups: Sequence[OptionGroup]) -> str:
    """Return all options under their headings. `*` marks flags of kube-network-policies."""
    lists = ("".join(f"{line}\n" for option in options for line in _lines(option)) for _heading, options in groups)
    return "\n".join(f"{group.heading}:\n{flags}" if group.heading else flags for group, flags in zip(groups, lists, strict=True))


def flag_forms(option: Option[object]) -> list[str]:
    """Return the forms of a flag as help and manual page show them: `-o, --output FORMAT`, `--fail-open[=BOOL], --no-fail-open`."""
    letter = [f"-{option.letter}"] if option.letter else []
    if option.is_negatable:
        return [*letter, f"--{option.name}[={option.value_type.metavar}]", f"--no-{option.name}"]
    return [*letter, f"--{option.name} {option.value_type.metavar}"]


def facts(option: Option[object]) -> str:
    """Return what is allowed, the default, and the environment variable: of the options of `run`, which every command reads from it."""
    environment = f" Environment: {option.environment}." if option in OPTIONS else ""
    return f"Allowed: {option.value_type.allowed}. Default: {option.default or 'none'}.{environment}"


def paragraph(text: str, *, indent: str = "") -> str:
    """Return the text, wrapped to the width of the flag list."""
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _lines(option: Option[object]) -> Iterator[str]:
    yield f"  {', '.join(flag_forms(option))}{' *' if option.upstream else ''}"
    yield paragraph(option.help, indent=" " * 8)
    yield paragraph(facts(option), indent=" " * 8)
