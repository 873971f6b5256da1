"""The types of option values: how a text is parsed, and what help, configuration file and shell completion tell about it.

Every parser raises `ValueError` for an invalid text.
"""

import ipaddress
import os
import re

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from netpolq.hold.ranges import ALLOWED, PodRange, parse_ranges
from netpolq.ipc.agent_settings import MAX_QUEUE, MAX_WORKERS, BindAddress, QueueRange
from netpolq.ipc.run_dir import STATUS_SOCKET

_MAX_SOCKET_PATH_BYTES = 107
"""Source: unix(7): `sun_path` has 108 bytes, the last of them NUL."""

_TRUE = frozenset({"1", "t", "true", "yes"})
_FALSE = frozenset({"0", "f", "false", "no"})
_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}|0[xX][0-9a-fA-F]{1,16}")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
_DNS_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_MAX_DNS_NAME = 253
_INTERFACE = re.compile(r"[A-Za-z0-9._@:-]{1,15}|[A-Za-z0-9._@:-]{1,14}\*")
"""A name in full, or its start and a star. Source: IFNAMSIZ in linux/if.h; the characters are those that need no quotes in a rule."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Empty = TypeVar("Empty")
E = TypeVar("E", bound=StrEnum)


class Completion(StrEnum):
    """What a shell offers beside the choices of an option."""

    NOTHING = auto()
    FILES = auto()
    FOLDERS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueType(Generic[T_co]):
    """A type of values. `parse` raises `ValueError` for a text that is not allowed; `allowed` completes "allowed: ".

    `choices`: the usual texts, if they are few. `toml_type`: the TOML type that a file may use besides a string; `bool` also makes the
    flag a switch, which needs no value, and without choices has none.
    """

    parse: Callable[[str], T_co]
    metavar: str
    allowed: str
    choices: tuple[str, ...] = ()
    completion: Completion = Completion.NOTHING
    toml_type: type[str] | type[int] | type[bool] = str


def _duration(given: str) -> int:
    """Return seconds."""
    found = _DURATION.fullmatch(given)
    if not found:
        raise ValueError
    return int(found[1]) * _UNIT_SECONDS[found[2]]


def _boolean(text: str) -> bool:
    """Source: Go's strconv.ParseBool, case-insensitive, extended by yes and no."""
    folded = text.lower()
    if folded in _TRUE:
        return True
    if folded in _FALSE:
        return False
    raise ValueError


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError  # this includes a leading zero, which Go reads as octal
    return int(text, 0)


def integers(lowest: int, highest: int, *, metavar: str = "N") -> ValueType[int]:
    """Return the type of decimal and hexadecimal numbers from `lowest` to `highest`, both included."""

    def parse(text: str) -> int:
        number = _number(text)
        if not lowest <= number <= highest:
            raise ValueError
        return number

    return ValueType(parse=parse, metavar=metavar, allowed=f"{lowest} to {highest}", toml_type=int)


def modes(kind: type[E], *, metavar: str) -> ValueType[E]:
    """Return the type of the members of an enumeration."""
    return ValueType(parse=kind, metavar=metavar, allowed=_alternatives(*kind), choices=tuple(kind))


def words(*allowed: str, metavar: str) -> ValueType[str]:
    """Return the type of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError
        return text

    return ValueType(parse=parse, metavar=metavar, allowed=_alternatives(*allowed), choices=allowed)


def optional(value_type: ValueType[T], empty: Empty) -> ValueType[T | Empty]:
    """Return the same type, with a value for the empty text."""
    return ValueType(
        parse=lambda given: value_type.parse(given) if given else empty,
        metavar=value_type.metavar,
        allowed=value_type.allowed,
        choices=value_type.choices,
        completion=value_type.completion,
    )


def _alternatives(*texts: str) -> str:
    *most, last = texts
    return f"{', '.join(most)} or {last}"


def durations(highest_s: int, *, metavar: str = "DURATION") -> ValueType[int]:
    """Return the type of durations in seconds, written as in `30s`, `5m` or `1h`, up to one."""

    def parse(text: str) -> int:
        if (seconds := _duration(text)) > highest_s:
            raise ValueError
        return seconds

    units = reversed(_UNIT_SECONDS.items())
    highest = next(f"{highest_s // unit_s}{unit}" for unit, unit_s in units if highest_s % unit_s == 0)
    return ValueType(parse=parse, metavar=metavar, allowed=f"a number and s, m or h, as in 30s or 5m, at most {highest}")


def text(*, metavar: str, allowed: str, completion: Completion = Completion.NOTHING) -> ValueType[str]:
    """Return the type of texts that the command parses itself."""
    return ValueType(parse=_plain_text, metavar=metavar, allowed=allowed, completion=completion)


def paths(*, metavar: str, allowed: str, completion: Completion) -> ValueType[Path | None]:
    """Return the type of paths, with None for the empty text."""
    path = ValueType(parse=lambda given: Path(_plain_text(given)), metavar=metavar, allowed=allowed, completion=completion)
    return optional(path, None)


def _plain_text(given: str) -> str:
    """Return the text itself, if it can be an argument of a program."""
    if "\0" in given:
        raise ValueError
    os.fsencode(given)
    return given


def _worker_count(given: str) -> int | None:
    return None if given == "auto" else integers(1, MAX_WORKERS).parse(given)


def _queue_range(given: str) -> QueueRange | None:
    """Return the range of `A:B`, or None for the empty text, which means "not given"."""
    if not given:
        return None
    first, _colon, last = given.partition(":")
    found = QueueRange(_number(first), _number(last))
    if not found.first <= found.last <= MAX_QUEUE or found.last - found.first >= MAX_WORKERS:
        raise ValueError
    return found


def _mark_mask(given: str) -> int:
    mask = integers(1, 0xFFFFFFFF).parse(given)
    if mask != 0b111 * (mask & -mask):
        raise ValueError
    return mask


def _host_name(given: str) -> str:
    """Return a node name in lower case, without surrounding space; empty for the empty text, which means "not given".

    Source: kubelet's `nodeutil.GetHostname`. The check of the characters detects a `$(NODE_NAME)` that was not expanded.
    """
    name = given.strip().lower()
    if given and not _HOST_NAME.fullmatch(name):
        raise ValueError
    return name


def _dns_name(given: str) -> str:
    """Return the name in lower case."""
    name = given.lower()
    if len(name) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(name):
        raise ValueError
    return name


def _run_directory(given: str) -> Path:
    """Return an absolute path, short enough for the address of the status socket below it."""
    path = Path(_plain_text(given))
    if not path.is_absolute() or len(os.fsencode(path / STATUS_SOCKET)) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError
    return path


def _absolute_file(given: str) -> Path:
    """Return an absolute path that can be the name of a file."""
    path = Path(_plain_text(given))
    if not path.is_absolute() or given.endswith("/") or path.name in {"", ".."}:
        raise ValueError
    return path


def _receiver_url(given: str) -> str:
    """Return the URL. A user, a query and a fragment are refused: they hold secrets, which `ps` would show, or mean nothing.

    So is a URL without a path, which no receiver serves: the path is not added, as for OTEL_EXPORTER_OTLP_LOGS_ENDPOINT.
    """
    parts = urlsplit(given)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.port == 0
        or parts.path in {"", "/"}
        or any(letter in given for letter in "@?#\\")
        or not given.isascii()
        or not given.isprintable()
        or " " in given
    ):
        raise ValueError
    return given


def _interfaces(given: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in given.split(",")) if given.strip() else ()
    if not all(map(_INTERFACE.fullmatch, names)):
        raise ValueError
    return names


def _dns_servers(given: str) -> tuple[str, ...]:
    if given == "auto":
        return ()
    return tuple(str(ipaddress.ip_address(part.strip())) for part in given.split(","))


BOOLEAN: ValueType[bool] = ValueType(
    parse=_boolean,
    metavar="BOOL",
    allowed="true or false (also 1, 0, t, f, yes, no)",
    choices=("true", "false"),
    toml_type=bool,
)
BOOLEAN_OR_AUTO: ValueType[bool | None] = ValueType(
    parse=lambda given: None if given == "auto" else _boolean(given),
    metavar="BOOL",
    allowed=f"auto, {BOOLEAN.allowed}",
    choices=("auto", *BOOLEAN.choices),
    toml_type=bool,
)
WORKER_COUNT: ValueType[int | None] = ValueType(
    parse=_worker_count, metavar="N", allowed=f"auto or 1 to {MAX_WORKERS}", choices=("auto",), toml_type=int
)
QUEUE_RANGE: ValueType[QueueRange | None] = ValueType(
    parse=_queue_range,
    metavar="A:B",
    allowed=f"A:B with 0 <= A <= B <= {MAX_QUEUE} and at most {MAX_WORKERS} queues",
)
MARK_BITS: ValueType[int] = ValueType(
    parse=_mark_mask, metavar="MASK", allowed="three adjacent bits of 32, such as 0x70", toml_type=int
)
BIND_ADDRESS: ValueType[BindAddress] = ValueType(
    parse=BindAddress.parse,
    metavar="ADDRESS",
    allowed="HOST:PORT with a port from 0 to 65535, an IPv6 host in brackets, or :PORT for all addresses",
)
OPTIONAL_BIND_ADDRESS: ValueType[BindAddress | None] = optional(
    ValueType(parse=BindAddress.parse, metavar="ADDRESS", allowed=f"{BIND_ADDRESS.allowed}; or nothing"), None
)
DNS_NAME: ValueType[str] = ValueType(
    parse=_dns_name, metavar="NAME", allowed="a DNS name of letters, digits, '.' and '-', of at most 253 characters"
)
HOST_NAME: ValueType[str] = ValueType(
    parse=_host_name, metavar="NAME", allowed="a node name of letters, digits, '.', '-' and '_', or nothing"
)
RUN_DIRECTORY: ValueType[Path] = ValueType(
    parse=_run_directory,
    metavar="DIR",
    allowed="an absolute path of at most 95 bytes",
    completion=Completion.FOLDERS,
)
DURATION: ValueType[int] = ValueType(
    parse=_duration, metavar="DURATION", allowed="a number and one of s, m, h and d, such as 24h"
)
FOLDER = paths(metavar="DIR", allowed="a folder", completion=Completion.FOLDERS)
ABSOLUTE_FILE: ValueType[Path | None] = optional(
    ValueType(parse=_absolute_file, metavar="FILE", allowed="an absolute path, or nothing", completion=Completion.FILES), None
)
RECEIVER_URL: ValueType[str] = optional(
    ValueType(
        parse=_receiver_url,
        metavar="URL",
        allowed="an http or https URL with a path and without user, query and fragment, such as http://localhost:4318/v1/logs, or nothing",
    ),
    "",
)
RESULTS_FOLDER: ValueType[Path | None] = ValueType(
    parse=lambda given: None if given in {"", "off"} else Path(_plain_text(given)),
    metavar="DIR",
    allowed="a folder, or off",
    choices=("off",),
    completion=Completion.FOLDERS,
)
INTERFACES: ValueType[tuple[str, ...]] = ValueType(
    parse=_interfaces,
    metavar="NAMES",
    allowed="a comma-separated list of interface names, each of at most 15 bytes, such as cali*",
)
DNS_SERVERS: ValueType[tuple[str, ...]] = ValueType(
    parse=_dns_servers, metavar="ADDRESSES", allowed="auto, or a comma-separated list of IP addresses", choices=("auto",)
)
POD_RANGES: ValueType[tuple[PodRange, ...]] = ValueType(
    parse=parse_ranges, metavar="CIDRS", allowed=f"a comma-separated list of {ALLOWED}"
)
