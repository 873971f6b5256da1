"""Fields of untyped API bodies: a value with its path, so that every error names its field.

A body is any value of a JSON or YAML parser. No function here recurses into a value or formats more of it than fits a log line.
`null` is the same as absent, as in the API server's decoder.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

SHOWN_CHARACTERS = 60
"""Maximum number of characters that a message quotes from a value."""


class FieldError(Exception):
    """An invalid field. `path` is such as `spec.ingress[0].ports[1].endPort`.

    `is_missing`: whether the field is absent. `unknown_in`: for a field that the API does not define, the path of its object.
    """

    def __init__(self, path: str, message: str, *, is_missing: bool = False, unknown_in: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message
        self.is_missing = is_missing
        self.unknown_in = unknown_in


Report = Callable[[FieldError], None]
"""Records an error of one field, so that reading continues with the next field."""

_Value = TypeVar("_Value")
_Otherwise = TypeVar("_Otherwise")


def shown(value: object) -> str:
    """The value for a message: quoted and clipped, or only its type."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value) if len(value) <= SHOWN_CHARACTERS else repr(value[:SHOWN_CHARACTERS]) + "…"
        case int():
            return str(value) if value.bit_length() <= 64 else "a huge number"
        case float():
            return f"the number {value!r}"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return f"a value of type {type(value).__name__}"


class Field(NamedTuple):
    """A value and its path."""

    path: str
    value: object

    def error(self, message: str) -> FieldError:
        """An error of this field, for the caller to raise."""
        return FieldError(self.path, message, is_missing=self.value is None)

    @property
    def absent(self) -> bool:
        return self.value is None

    def record(self) -> "Field":
        """This field, if it is an object or absent."""
        self.mapping()
        return self

    def mapping(self) -> Mapping[object, object]:
        """The entries; none if absent. Keys are unchecked."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.error(f"must be an object, not {shown(self.value)}")
        return self.value

    def get(self, name: str) -> "Field":
        """A field of this object; a field of an absent object is absent."""
        value = self.value
        # Fast path for objects: one policy needs about forty calls.
        inner = value.get(name) if isinstance(value, dict) else self.mapping().get(name)
        return Field(f"{self.path}.{name}" if self.path else name, inner)

    def items(self) -> "list[Field]":
        """The elements, null ones included; none if absent."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, not {shown(self.value)}")
        return [Field(f"{self.path}[{index}]", value) for index, value in enumerate(self.value)]

    def elements(self, report: Report) -> "list[Field]":
        """The elements; none if absent. Records an error for a value that is not a list, and for a `null` element, which is a dash
        without content and never intended.
        """
        value = self.value
        if value is None:
            return []
        if not isinstance(value, list):
            report(self.error(f"must be a list, not {shown(value)}"))
            return []
        path = self.path
        fields = [Field(f"{path}[{index}]", element) for index, element in enumerate(value)]
        if None in value:
            for field in fields:
                if field.absent:
                    report(FieldError(field.path, "must not be null"))
            return [field for field in fields if not field.absent]
        return fields

    def text(self) -> str:
        """The string; empty if absent."""
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            hint = " (put it in quotes)" if isinstance(self.value, int | float) else ""
            raise self.error(f"must be a string, not {shown(self.value)}{hint}")
        return self.value

    def flag(self) -> bool:
        """The boolean; false if absent."""
        if self.value is None:
            return False
        if not isinstance(self.value, bool):
            raise self.error(f"must be true or false, not {shown(self.value)}")
        return self.value

    def port_number(self) -> int:
        """A port number. An absent one is an error."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.error(f"must be a port number, not {shown(self.value)}")
        if not 1 <= self.value <= 65535:
            raise self.error(f"must be between 1 and 65535, not {shown(self.value)}")
        return self.value


def read_or(read: Callable[[Field], _Value], field: Field, report: Report, otherwise: _Otherwise) -> _Value | _Otherwise:
    """The result of `read`, or `otherwise` after an error."""
    try:
        return read(field)
    except FieldError as error:
        report(error)
        return otherwise


def each(read: Callable[[Field], _Value], fields: Iterable[Field], report: Report) -> list[_Value]:
    """The results of `read` for the valid fields; records an error for each of the others."""
    found = []
    for field in fields:
        try:
            found.append(read(field))
        except FieldError as error:
            report(error)
    return found
