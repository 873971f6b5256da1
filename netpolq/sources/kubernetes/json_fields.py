"""Fields of JSON objects that nothing has validated: a value of another type than the API's counts as absent."""

from collections.abc import Mapping


def mapping(value: object) -> Mapping[str, object]:
    """The value, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def text(fields: Mapping[str, object], name: str) -> str:
    """A string; empty if absent."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def number(fields: Mapping[str, object], name: str) -> int:
    """An integer; 0 if absent."""
    value = fields.get(name)
    return value if isinstance(value, int) else 0
