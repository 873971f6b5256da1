"""Decoder of untyped API bodies, for bodies from YAML, from JSON and from the API server.

The decoder applies API defaults and checks every field that the agent uses. `decode` ignores unknown fields, as clients of a newer API
server do, except those of cluster-wide policies, which may restrict a rule. `decode_all` reads manifests, which no API server has
checked, and also refuses what strict field validation refuses.
It finds all errors of an object at once. For any value it raises only `DecodeError`.
Source: the Kubernetes API types named in `netpolq.model`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from netpolq.model import Object
from netpolq.sources.decode.cluster_policy import cluster_policy
from netpolq.sources.decode.concerned_namespaces import namespaces_of
from netpolq.sources.decode.error import DecodeError
from netpolq.sources.decode.fields import Field, FieldError, shown
from netpolq.sources.decode.kinds import (
    CLUSTER_POLICIES,
    CLUSTER_WIDE,
    LIST_VERSIONS,
    USED,
    VERSIONS,
    intended_kind,
    is_of_another_group,
)
from netpolq.sources.decode.known_fields import unknown_fields
from netpolq.sources.decode.objects import UNNAMED, namespace, network_policy, node, pod
from netpolq.sources.decode.problems import Problems

__all__ = ["UNNAMED", "DecodeError", "Ignored", "Unknown", "decode", "decode_all"]

_KIND_LENGTH = 63


class Unknown(Enum):
    """Treatment of fields that the API does not define."""

    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Ignored:
    """An object of a kind that the agent does not use. `body`: for commands, which use more kinds."""

    kind: str
    body: object = field(default=None, compare=False, repr=False)


def decode_all(body: object) -> Iterator[Object | Ignored | DecodeError]:
    """Every object of a manifest, in order, lists expanded. Yields errors, so that one bad item does not hide the others.

    The items of a list of one kind, such as a PodList, need not repeat apiVersion and kind, as in the API's own answers.
    """
    pending = [Field("", body)]
    while pending:
        field = pending.pop()
        try:
            if not _is_list(field):
                yield _decode(field, Unknown.REFUSED)
                continue
            pending.extend(reversed(_items(field)))
            yield from _problems_of_list(field)
        except DecodeError as error:
            yield error


def decode(body: object) -> Object | Ignored:
    """One object. Raises `DecodeError`. A list is not one object: it counts as ignored."""
    return _decode(Field("", body), Unknown.IGNORED)


def _is_list(field: Field) -> bool:
    body = field.value
    if not isinstance(body, dict):
        return False
    kind = body.get("kind")
    return isinstance(kind, str) and kind in LIST_VERSIONS and not is_of_another_group(body.get("apiVersion"), kind)


def _problems_of_list(field: Field) -> Iterator[DecodeError]:
    kind = field.get("kind").text()
    unknown = Problems(field.path)
    unknown.add_all(unknown_fields(field, kind))
    if unknown.count:
        yield _error_of_list(field, kind, unknown)
    version = Problems(field.path)
    version.add_all(_version_problems(field.get("apiVersion"), LIST_VERSIONS[kind]))
    if version.count:
        yield _error_of_list(field, kind, version, consequence="its items are used")


def _error_of_list(field: Field, kind: str, problems: Problems, *, consequence: str = "") -> DecodeError:
    is_cluster_wide = kind.removesuffix("List") in CLUSTER_WIDE
    namespaces = () if is_cluster_wide else namespaces_of(field.value)
    return DecodeError(field, problems, key=kind, consequence=consequence, namespaces=namespaces, is_cluster_wide=is_cluster_wide)


def _items(field: Field) -> list[Field]:
    """The items of a list. Raises `DecodeError` if it has none."""
    kind = field.get("kind").text()
    version, versions = field.get("apiVersion"), LIST_VERSIONS[kind]
    try:
        items = field.get("items").items()
    except FieldError as error:
        problems = Problems(field.path)
        problems.add_all([error, *unknown_fields(field, kind), *_version_problems(version, versions)])
        raise _error_of_list(field, kind, problems) from error
    if kind == "List":
        return items
    of_items = {
        "kind": kind.removesuffix("List"),
        "apiVersion": version.value if version.value in versions else versions[0],
    }
    return [Field(item.path, of_items | item.value) if isinstance(item.value, dict) else item for item in items]


def _version_problems(version: Field, expected: tuple[str, ...]) -> list[FieldError]:
    return [] if version.value in expected else [version.error(f"must be {' or '.join(expected)}, not {shown(version.value)}")]


def _decode(body: Field, unknown: Unknown) -> Object | Ignored:
    problems = Problems(body.path)
    try:
        kind = _kind(body)
    except FieldError as error:
        problems.add(error)
        raise DecodeError(body, problems, namespaces=namespaces_of(body.value)) from error
    if kind not in VERSIONS:
        _refuse_misspelled(body, kind, unknown, problems)
        return Ignored(kind, body.value)
    version = body.get("apiVersion")
    if is_of_another_group(version.value, kind):
        return Ignored(f"{kind} of another API group")
    problems.add_all(_version_problems(version, VERSIONS[kind]))
    found = _unknown_fields(body, kind, unknown)
    problems.add_all(found)
    match kind:
        case "NetworkPolicy":
            # A policy of another version, or without one, may be intended for this API group, so it must not be ignored.
            return network_policy(body, problems, found)
        case "Pod":
            return pod(body, problems)
        case "Namespace":
            return namespace(body, problems)
        case "Node":
            return node(body, problems)
        case _:
            return cluster_policy(body, CLUSTER_POLICIES[kind], problems)


def _unknown_fields(body: Field, kind: str, unknown: Unknown) -> list[FieldError]:
    """The unknown fields to report. Those of a cluster-wide policy always are, outside its metadata."""
    if unknown is Unknown.REFUSED:
        return unknown_fields(body, kind)
    if kind not in CLUSTER_POLICIES:
        return []
    return unknown_fields(Field(body.path, {**body.mapping(), "metadata": None}), kind)


def _refuse_misspelled(body: Field, kind: str, unknown: Unknown, problems: Problems) -> None:
    """Refuse an object whose kind is probably misspelled, with its errors as an object of the intended kind."""
    intended = intended_kind(kind, body.mapping()) if unknown is Unknown.REFUSED else None
    if intended is None:
        return
    version, expected = body.get("apiVersion").value, USED[intended]
    likely = version if version in expected else expected[0]
    message = f"there is no kind {shown(kind)} in apiVersion {shown(version)}; did you mean {intended} of {likely}?"
    problems.add(body.get("kind").error(message))
    if intended in VERSIONS:
        try:
            _decode(Field(body.path, {**body.mapping(), "kind": intended, "apiVersion": likely}), unknown)
        except DecodeError as error:
            problems.add_all(error.problems.kept())
    is_cluster_wide = intended.removesuffix("List") in CLUSTER_WIDE
    namespaces = () if is_cluster_wide else namespaces_of(body.value)
    raise DecodeError(body, problems, key=kind, namespaces=namespaces, is_cluster_wide=is_cluster_wide)


def _kind(body: Field) -> str:
    field = body.get("kind")
    kind = field.text()
    if not (kind.isascii() and kind.isalnum() and len(kind) <= _KIND_LENGTH):
        raise field.error(f"must be a kind, not {shown(field.value)}")
    return kind
