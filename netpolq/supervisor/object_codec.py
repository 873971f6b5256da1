"""Objects of the model as JSON values, for the documents between an agent and its commands. Both are of one version.

A data class is an object with its fields, a tuple a list of its fields; a peer, which is one of several types, has the name of its type in
front. Addresses and networks are texts. `decoded` checks every value against the types of `netpolq.model`.
"""

import types

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import orjson

from netpolq.addresses import AddressKey, format_address, parse_address
from netpolq.model import (
    ClusterNetworkPolicy,
    DomainPeer,
    IPBlock,
    Labels,
    Namespace,
    NetworkPolicy,
    Node,
    NodePeer,
    Object,
    Pod,
    PodPeer,
    Rejection,
)

_OBJECTS: Final[Mapping[str, type]] = {
    kind.__name__: kind for kind in (Namespace, Pod, Node, NetworkPolicy, ClusterNetworkPolicy, Rejection)
}
_PEERS: Final = frozenset({PodPeer, IPBlock, NodePeer, DomainPeer})

_Decode = Callable[[Any], Any]


def encoded(item: Object | Rejection) -> bytes:
    """Return an object as JSON: the name of its type, and the object."""
    return orjson.dumps([type(item).__name__, item], default=_value)


def _value(value: object) -> object:
    match value:
        case bytes():
            return format_address(value)
        case PodPeer() | IPBlock() | NodePeer() | DomainPeer():
            return [type(value).__name__, *value]
        case tuple():
            return list(value)
        case frozenset():
            return sorted(value)
        case IPv4Network() | IPv6Network():
            return str(value)
        case _:
            raise TypeError(f"{type(value).__name__} is not of the model")


def decoded(kind: object, value: object) -> Object | Rejection:
    """Return the object from both parts of `encoded`. Raises `ValueError` for anything else."""
    try:
        found: Object | Rejection = _reader(_OBJECTS[str(kind)])(value)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an object of the model: {type(error).__name__}: {error}") from error
    return found


@cache
def _reader(hint: Any) -> _Decode:
    """The reader of values of a type. It raises `ValueError`, `TypeError` or `KeyError`."""
    if hint is AddressKey:
        return parse_address
    if hint in {str, int, bool}:
        return lambda value: _checked(hint, value)
    if hint is type(None):
        return lambda value: _only(None, value)
    if hint in {IPv4Network, IPv6Network}:
        return lambda value: hint(_checked(str, value))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _union(arguments)
    if origin is Literal:
        return lambda value: _one_of(arguments, value)
    if origin is tuple:
        element = _reader(arguments[0])
        return lambda value: tuple(map(element, _checked(list, value)))
    if origin is frozenset:
        member = _reader(arguments[0])
        return lambda value: frozenset(map(member, _checked(list, value)))
    if origin is Mapping:
        return _labels
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if isinstance(hint, type) and is_dataclass(hint):
        return _data_class(hint)
    if isinstance(hint, type) and issubclass(hint, tuple):
        return _named_tuple(hint)
    raise TypeError(f"the model has a type without a reader: {hint}")


def _checked(kind: type, value: Any) -> Any:
    if type(value) is not kind:  # not isinstance: bool is a subclass of int
        raise ValueError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def _only(expected: object, value: object) -> None:
    if value is not expected:
        raise ValueError(f"null expected, not {type(value).__name__}")


def _one_of(allowed: tuple[object, ...], value: object) -> object:
    if value not in allowed:
        raise ValueError(f"one of {', '.join(map(str, allowed))} expected")
    return value


def _labels(value: Any) -> Labels:
    return Labels({_checked(str, key): _checked(str, text) for key, text in _checked(dict, value).items()})


def _union(kinds: tuple[Any, ...]) -> _Decode:
    readers = tuple(map(_reader, kinds))

    def read(value: Any) -> Any:
        errors = []
        for reader in readers:
            try:
                return reader(value)
            except (ValueError, TypeError) as error:
                errors.append(str(error))
        raise ValueError("; ".join(errors))

    return read


def _data_class(kind: type) -> _Decode:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}

    def read(value: Any) -> Any:
        given = _checked(dict, value)
        if given.keys() != readers.keys():
            raise ValueError(f"{kind.__name__} has other fields")
        return kind(**{name: reader(given[name]) for name, reader in readers.items()})

    return read


def _named_tuple(kind: type) -> _Decode:
    readers = tuple(map(_reader, get_type_hints(kind).values()))

    def read(value: Any) -> Any:
        given = _checked(list, value)
        if kind in _PEERS:
            name, *given = given
            _one_of((kind.__name__,), name)
        return kind(*(reader(each) for reader, each in zip(readers, given, strict=True)))

    return read
