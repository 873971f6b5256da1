"""The flag lists of `--help`, generated from the options."""

import textwrap

from collections.abc import Collection, Iterator, Sequence

from netpolq.settings.options import Option, OptionGroup

_WIDTH = 110


def grouped_flags(groups: Sequence[OptionGroup]) -> str:
    """Return all options under their headings, with environment variables. `*` marks flags of kube-network-policies."""
    return "\n".join(f"{heading}:\n{flag_list(options, environment=options)}" for heading, options in groups)


def flag_list(options: Sequence[Option[object]], *, environment: Collection[Option[object]]) -> str:
    """Return the options in order. `environment`: the options that are also read from their environment variable."""
    return "".join(f"{line}\n" for option in options for line in _lines(option, option in environment))


def paragraph(text: str, *, indent: str = "") -> str:
    """Return the text, wrapped to the width of the flag list."""
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _lines(option: Option[object], from_environment: bool) -> Iterator[str]:
    form = f"--{option.name}[={option.value.metavar}]" if option.is_switch else f"--{option.name} {option.value.metavar}"
    negated = f", --no-{option.name}" if option.is_switch else ""
    letter = f"-{option.letter}, " if option.letter else ""
    yield f"  {letter}{form}{negated}{' *' if option.upstream else ''}"
    yield paragraph(option.help, indent=" " * 8)
    environment = f" Environment: {option.environment}." if from_environment else ""
    yield paragraph(f"Allowed: {option.value.allowed}. Default: {option.default or 'none'}.{environment}", indent=" " * 8)
