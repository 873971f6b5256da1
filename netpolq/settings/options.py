"""The type `Option`, and the layers that give options their values: command line, environment and file.

Each layer holds unparsed texts. `Values` searches the layers in order of precedence and parses the first text. A text that a higher layer
overrides is never parsed, so an error in it has no effect.
"""

import difflib
import tomllib

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from netpolq.errors import SettingsError
from netpolq.settings.value_types import ValueType

ENVIRONMENT_PREFIX = "NETPOLQ_"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T_co]):
    """One option, for all layers.

    `value_type`: the type of its values, to which `default` belongs. `letter`: a short form, `-o`; empty for none. `upstream`: the flag
    exists under this name in the kube-network-policies agent. `is_list`: the flag may be repeated, which separates its values by commas.
    """

    name: str
    value_type: ValueType[T_co]
    default: str
    help: str
    upstream: bool = False
    letter: str = ""
    is_list: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether the flag alone means true and never uses the next argument as its value."""
        return self.value_type.toml_type is bool

    @property
    def is_negatable(self) -> bool:
        """Whether the switch also has the forms `--no-flag` and `--flag=false`."""
        return self.is_switch and bool(self.value_type.choices)

    @property
    def environment(self) -> str:
        """The name of the environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper().replace("-", "_")


class OptionGroup(NamedTuple):
    """Options under a heading."""

    heading: str
    options: tuple[Option[object], ...]


class Given(NamedTuple):
    """The text of an option, and its origin for messages."""

    origin: str
    text: str


Layer = Mapping[str, Given]
"""The texts of one layer, by option name."""


class Values:
    """The values of options from several layers, highest precedence first."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def __getitem__(self, option: Option[T]) -> T:
        given = self.given(option)
        return option.value_type.parse(option.default) if given is None else parse_given(option, given)

    def given(self, option: Option[object]) -> Given | None:
        """Return the text of the highest layer that has the option; None if the default applies."""
        return next((layer[option.name] for layer in self.layers if option.name in layer), None)


def parse_given(option: Option[T], given: Given) -> T:
    """Return the parsed value. Raises `SettingsError`, which names origin, text and allowed values."""
    try:
        return option.value_type.parse(given.text)
    except ValueError:
        raise refusal(option, given.origin, given.text) from None


def refusal(option: Option[object], origin: str, value: object) -> SettingsError:
    """Return the error for an invalid value. It is one line: `repr` escapes line ends."""
    return SettingsError(f"{origin}: invalid value {value!r}; allowed: {option.value_type.allowed}")


def from_argv(options: Sequence[Option[object]], argv: Sequence[str]) -> Layer:
    """Read the arguments after the command, in the syntax of Go's flag package and of argparse. The last value of a repeated flag wins,
    unless it is a list.

    `--flag value`, `--flag=value` and the same with one dash. A switch has the forms `--flag`, `--no-flag` and `--flag=value`. Names are
    never abbreviated. Raises `SettingsError` for everything else. The values are not parsed here.
    """
    by_name = {option.name: option for option in options}
    letters = {option.letter: option.name for option in options if option.letter}
    layer: dict[str, Given] = {}
    remaining = list(reversed(argv))
    bare_switch = ""
    while remaining:
        argument = remaining.pop()
        if argument == "--" and not remaining:
            break
        if argument in {"-", "--"} or not argument.startswith("-"):
            hint = f"; write {bare_switch}={argument} to give the flag a value" if bare_switch else ""
            raise SettingsError(f"argument {argument!r} is not expected here{hint}")
        bare_switch = ""
        name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        name = letters.get(name, name)
        option = by_name.get(name)
        if option is None:
            option = by_name.get(name.removeprefix("no-"))
            if option is None or not option.is_switch:
                raise _unknown_flag(argument.partition("=")[0], name, by_name)
            if equals:
                raise SettingsError(f"flag --{name}: takes no value; write --{option.name}=true or --{option.name}=false")
            text = "false"
        elif option.is_switch and not equals:
            text = "true"
            bare_switch = f"--{name}"
        elif not equals:
            # Go would use a following flag as the value. That is nearly always a forgotten value.
            if not remaining or (remaining[-1].startswith("-") and remaining[-1] != "-"):
                raise SettingsError(
                    f"flag --{name}: needs a value, as in --{name}={option.value_type.metavar}; allowed: {option.value_type.allowed}"
                )
            text = remaining.pop()
        if option.is_list and option.name in layer:
            text = f"{layer[option.name].text},{text}"
        layer[option.name] = Given(f"flag --{name}", text)
    return layer


def _unknown_flag(flag: str, name: str, by_name: Mapping[str, object]) -> SettingsError:
    close = difflib.get_close_matches(name, by_name, n=1)
    hint = f"; did you mean --{close[0]}?" if close else "; --help lists the flags"
    return SettingsError(f"flag {flag!r} does not exist{hint}")


def from_environment(options: Sequence[Option[object]], environ: Mapping[str, str]) -> Layer:
    """Read the variables of the options.

    Other variables with the prefix are ignored: a Service called netpolq adds NETPOLQ_SERVICE_HOST to every pod of its namespace.
    """
    return {
        option.name: Given(f"environment variable {option.environment}", environ[option.environment])
        for option in options
        if option.environment in environ
    }


def from_file(options: Sequence[Option[object]], path: Path) -> Layer:
    """Read a TOML file whose keys are flag names. Raises `SettingsError` if it cannot be read or has any other key."""
    file = f"file {str(path)!r}"
    try:
        document: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror or error}; allowed for --config: a readable TOML file") from error
    except ValueError as error:  # of UTF-8 or of TOML
        raise SettingsError(f"{file}: not TOML: {' '.join(str(error).split())}") from error
    by_name = {option.name: option for option in options}
    layer: dict[str, Given] = {}
    for key, value in document.items():
        origin = f"{file}, key {key!r}"
        option = by_name.get(key)
        if option is None:
            close = difflib.get_close_matches(key, by_name, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; keys are flag names without the leading dashes"
            raise SettingsError(f"{origin}: does not exist{hint}")
        if isinstance(value, str):
            layer[key] = Given(origin, value)
        elif type(value) is option.value_type.toml_type:  # not isinstance: bool is a subclass of int
            layer[key] = Given(origin, str(value).lower())
        else:
            raise refusal(option, origin, value)
    return layer
