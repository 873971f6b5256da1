"""What an option is, and how the places that may give it are read.

Each place (command line, environment, file) is read into a layer of texts, unparsed; `Values` looks an option up in the layers and
parses the first text it finds. A text that a higher layer replaces is therefore never looked at, however wrong it is.
"""

import difflib
import tomllib

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from netpolq.errors import SettingsError

ENVIRONMENT_PREFIX = "NETPOLQ_"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class OptionGroup(StrEnum):
    """Headings of the flag list in `--help`, in this order."""

    SOURCE = "Source"
    QUEUES = "Queues and workers"
    DATA_PLANE = "Data plane"
    POLICY = "Policy behaviour"
    OBSERVABILITY = "Observability"
    COMPATIBILITY = "Compatibility"
    COMMAND = "Flags"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T_co]):
    """One option, wherever it is given.

    `parse` raises `ValueError` for a text that is not allowed and must accept `default`. `allowed` completes "allowed: ".
    `natural`: the TOML type a file may use besides a string; `bool` also makes the flag one that needs no value.
    `letter`: a short form, `-o`; empty for none.
    `upstream`: the flag exists under this name in the kube-network-policies agent.
    """

    name: str
    parse: Callable[[str], T_co]
    default: str
    metavar: str
    allowed: str
    help: str
    group: OptionGroup
    natural: type[str] | type[int] | type[bool] = str
    upstream: bool = False
    letter: str = ""

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone (true) and never takes the following word for its value."""
        return self.natural is bool

    @property
    def environment(self) -> str:
        """Name of the environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper().replace("-", "_")


class Given(NamedTuple):
    """The text of an option and, for messages, where it was found."""

    origin: str
    text: str


Layer = Mapping[str, Given]
"""What one place gives, by option name."""


class Values:
    """The options as given by some layers, highest precedence first."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def __getitem__(self, option: Option[T]) -> T:
        given = self.given(option)
        return option.parse(option.default) if given is None else parse_given(option, given)

    def given(self, option: Option[object]) -> Given | None:
        """What stands in the highest layer that has the option; None if the default holds."""
        return next((layer[option.name] for layer in self.layers if option.name in layer), None)


def parse_given(option: Option[T], given: Given) -> T:
    """The value of a given text. Raises `SettingsError` naming origin, text and what is allowed."""
    try:
        return option.parse(given.text)
    except ValueError:
        raise refusal(option, given.origin, given.text) from None


def refusal(option: Option[object], origin: str, value: object) -> SettingsError:
    """The error for a value that is not allowed; one line, since `repr` escapes line ends."""
    return SettingsError(f"{origin}: {value!r} is refused; allowed: {option.allowed}")


def from_words(options: Sequence[Option[object]], words: Sequence[str]) -> Layer:
    """Read the words after the command, in the forms of Go's flag package and of argparse; a repeated flag counts with its last value.

    `--flag value`, `--flag=value` and the same with one dash. A boolean stands alone, as `--no-flag`, or with `=value`. Names are
    never abbreviated. Raises `SettingsError` for everything else; the values themselves are not looked at.
    """
    by_name = {option.name: option for option in options}
    letters = {option.letter: option.name for option in options if option.letter}
    layer: dict[str, Given] = {}
    remaining = list(reversed(words))
    bare_boolean = ""
    while remaining:
        word = remaining.pop()
        if word == "--" and not remaining:
            break
        if word in {"-", "--"} or not word.startswith("-"):
            hint = f"; write {bare_boolean}={word} to give the flag a value" if bare_boolean else ""
            raise SettingsError(f"argument {word!r} is not expected here{hint}")
        bare_boolean = ""
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        name = letters.get(name, name)
        option = by_name.get(name)
        if option is None:
            option = by_name.get(name.removeprefix("no-"))
            if option is None or not option.is_switch:
                raise _unknown_flag(word.partition("=")[0], name, by_name)
            if equals:
                raise SettingsError(f"flag --{name}: takes no value; write --{option.name}=true or --{option.name}=false")
            text = "false"
        elif option.is_switch and not equals:
            text = "true"
            bare_boolean = f"--{name}"
        elif not equals:
            # Go would take a following flag for the value; that is nearly always a forgotten value.
            if not remaining or (remaining[-1].startswith("-") and remaining[-1] != "-"):
                raise SettingsError(f"flag --{name}: needs a value, as in --{name}={option.metavar}; allowed: {option.allowed}")
            text = remaining.pop()
        layer[option.name] = Given(f"flag --{name}", text)
    return layer


def _unknown_flag(flag: str, name: str, by_name: Mapping[str, object]) -> SettingsError:
    close = difflib.get_close_matches(name, by_name, n=1)
    hint = f"; did you mean --{close[0]}?" if close else "; --help lists the flags"
    return SettingsError(f"flag {flag!r} does not exist{hint}")


def from_environment(options: Sequence[Option[object]], environ: Mapping[str, str]) -> Layer:
    """Read the variables of the options.

    Other variables with our prefix are not ours to refuse: a Service called netpolq puts NETPOLQ_SERVICE_HOST into every pod.
    """
    return {
        option.name: Given(f"environment variable {option.environment}", environ[option.environment])
        for option in options
        if option.environment in environ
    }


def from_file(options: Sequence[Option[object]], path: Path) -> Layer:
    """Read a TOML file whose keys are flag names. Raises `SettingsError` if it cannot be read or has any other key."""
    place = f"file {str(path)!r}"
    try:
        document: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{place}: {error.strerror or error}; allowed for --config: a TOML file that can be read") from error
    except ValueError as error:  # of UTF-8 or of TOML
        raise SettingsError(f"{place}: not TOML: {' '.join(str(error).split())}") from error
    by_name = {option.name: option for option in options}
    layer: dict[str, Given] = {}
    for key, value in document.items():
        origin = f"{place}, key {key!r}"
        option = by_name.get(key)
        if option is None:
            close = difflib.get_close_matches(key, by_name, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; keys are flag names without dashes in front"
            raise SettingsError(f"{origin}: does not exist{hint}")
        if isinstance(value, str):
            layer[key] = Given(origin, value)
        elif type(value) is option.natural:  # not isinstance: true is no number
            layer[key] = Given(origin, str(value).lower())
        else:
            raise refusal(option, origin, value)
    return layer
