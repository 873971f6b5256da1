"""The JSON document with the settings of an agent.

`netpolq run` passes it to the pool as its only argument, the pool passes it to each supervisor, and on SIGHUP `netpolq reload` prints a
new one. So `ps` shows what is in force. A field has the name of its flag. All processes of an agent run the same version, so that every
field must be there and no other.
"""

import ipaddress
import json

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from netpolq.enums import Dataplane, DenyWith, FlowsMode, HoldUnknown, LoggingFormat, NodeEgress, PolicyMetrics, VerdictCacheMode
from netpolq.errors import SettingsError
from netpolq.ipc.agent_settings import Addresses, Between, BindAddress, Flag, Settings

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Reader = Callable[[object], object]


def encode(settings: Settings) -> str:
    """Return the document. It is ASCII: `json` keeps paths that are not UTF-8, which orjson rejects."""
    return json.dumps({name: _plain(getattr(settings, field.name)) for name, field in _FIELDS.items()}, separators=(",", ":"))


def decode(text: str) -> Settings:
    """Return the settings of a document. Raises `SettingsError`, which names the field that is unknown, missing or invalid."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SettingsError("the settings are not a JSON object; only `netpolq run` starts pool and supervisor")
    for name in document:
        if name not in _FIELDS:
            raise SettingsError(f"settings, field {name!r}: does not exist")
    values: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        if name not in document:
            raise SettingsError(f"settings, field {name!r}: is missing")
        try:
            values[field.name] = field.read(document[name])
        except ValueError as error:
            raise SettingsError(f"settings, field {name!r}: invalid value {document[name]!r}: {error}") from None
    return Settings(**values)


def changed_flags(before: Settings, after: Settings) -> Mapping[str, str]:
    """Return the flags whose values differ, as `--name`, and the texts of their values in `after`."""
    pairs = {f"--{name}": (getattr(before, field.name), getattr(after, field.name)) for name, field in _FIELDS.items()}
    return {flag: _text(_plain(new)) for flag, (old, new) in pairs.items() if old != new}


def _plain(value: object) -> object:
    """Return the value as JSON has it."""
    match value:
        case Path() | BindAddress():
            return str(value)
        case tuple():
            return [str(part) for part in value]
        case _:
            return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- reading a field, by its type -------------------------------------------------------------------------------------------------


def _exactly(kind: type[T], allowed: str) -> Callable[[object], T]:
    def read(value: object) -> T:
        if type(value) is not kind:  # not isinstance: bool is a subclass of int
            raise ValueError(f"must be {allowed}")
        return value

    return read


def _one_of(kind: type[E]) -> Reader:
    def read(value: object) -> E:
        if value not in [member.value for member in kind]:
            raise ValueError(f"must be one of {', '.join(kind)}")
        return kind(value)

    return read


_string = _exactly(str, "a string")


def _address_ranges(value: object) -> tuple[Addresses, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of address ranges")  # as for every other field
    return tuple(ipaddress.ip_network(_string(part)) for part in value)


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of strings")
    return tuple(map(_string, value))


_READERS: Mapping[object, Reader] = {
    bool: _exactly(bool, "true or false"),
    int: _exactly(int, "an integer"),
    str: _string,
    Path: lambda value: Path(_string(value)),
    BindAddress: lambda value: BindAddress.parse(_string(value)),
    tuple[Addresses, ...]: _address_ranges,
    tuple[str, ...]: _strings,
    **{
        kind: _one_of(kind)
        for kind in (Dataplane, VerdictCacheMode, HoldUnknown, NodeEgress, DenyWith, FlowsMode, PolicyMetrics, LoggingFormat)
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """A field of `Settings`: its name there, and how its JSON value is read. `bounds`: of a number."""

    name: str
    reader: Reader
    bounds: Between | None
    is_optional: bool

    def read(self, value: object) -> object:
        """Return the value of the field. Raises `ValueError` with what is allowed."""
        if value is None and self.is_optional:
            return None
        found = self.reader(value)
        if self.bounds is not None and not (isinstance(found, int) and self.bounds.low <= found <= self.bounds.high):
            raise ValueError(f"must be from {self.bounds.low} to {self.bounds.high}")
        return found


def _fields() -> dict[str, _Field]:
    """Return the fields by the names of their flags."""
    types = get_type_hints(Settings)
    notes = {name: getattr(hint, "__metadata__", ()) for name, hint in get_type_hints(Settings, include_extras=True).items()}
    found = {}
    for name in (field.name for field in fields(Settings)):
        flag = next((note.name for note in notes[name] if isinstance(note, Flag)), name.replace("_", "-"))
        found[flag] = _Field(
            name=name,
            reader=next(_READERS[kind] for kind in (types[name], *get_args(types[name])) if kind in _READERS),
            bounds=next((note for note in notes[name] if isinstance(note, Between)), None),
            is_optional=NoneType in get_args(types[name]),
        )
    return found


_FIELDS = _fields()

FLAGS = frozenset(_FIELDS)
"""The names of all fields."""
