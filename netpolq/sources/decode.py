"""From untyped API bodies to objects: the only way in, whether a body came from YAML, from JSON or from the API server.

API defaults are applied and every field that is used is checked. `decode` ignores unknown fields, as clients of the API server do, which
may be newer. `decode_all` reads manifests, which no API server has checked: it refuses what strict field validation refuses, too.
For any value whatever, nothing but `DecodeError` is raised. Source: the Kubernetes API types named in `netpolq.model`.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from netpolq.enums import Direction
from netpolq.model import NAMESPACE_NAME_LABEL, LabelSelector, Namespace, NetworkPolicy, Object, Pod
from netpolq.sources.decode_pod import pod
from netpolq.sources.decode_policy import BOTH_DIRECTIONS, pod_selector, policy_types, rules
from netpolq.sources.fields import Field, FieldError, shown
from netpolq.sources.kinds import LIST_VERSIONS, VERSIONS, is_of_another_group, meant_kind
from netpolq.sources.known_fields import unknown_fields
from netpolq.sources.meant_namespaces import DEFAULT_NAMESPACE, named_namespaces, namespaces_of
from netpolq.sources.shapes import labels_where_valid, namespace_name, object_name

UNNAMED = ""
"""Name of the stand-in for a policy whose own name cannot be read; whoever keeps it must give it one of its own."""

_KIND_LENGTH = 63
_SELECTING_WORDS = ("select", "match", "label", "pod")
"""An unknown field of a policy with one of these in its name may have been meant to say which pods it selects."""


class Unknown(Enum):
    """What is done about fields that the API does not know."""

    IGNORED = "ignored"
    REFUSED = "refused"


class Ignored(NamedTuple):
    """An object of a kind that the agent does not use."""

    kind: str


class DecodeError(Exception):
    """An object that cannot be used as written. Only the first field that is wrong is named.

    `partial`: what to use in its place, or None. For a policy it isolates at least the pods that the policy would isolate and admits
    nothing; for a pod or namespace it is the part that could be read. `consequence` says so in words. `key`: the object, as far as known.
    `namespaces`: those that the object may have been meant for, besides that of `partial`.
    """

    def __init__(
        self,
        field: FieldError,
        *,
        key: str = "",
        partial: Object | None = None,
        consequence: str = "",
        namespaces: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{key}: {field}" if key else str(field))
        self.field = field.path
        self.message = field.message
        self.key = key
        self.partial = partial
        self.namespaces = namespaces
        self.consequence = consequence or "it is not used"


def decode_all(body: object) -> Iterator[Object | Ignored | DecodeError]:
    """Every object of a manifest, in order, lists expanded. Errors are part of the answer: one bad item does not hide the others.

    The items of a PodList, NamespaceList or NetworkPolicyList need not repeat apiVersion and kind, as in the API's own answers.
    """
    pending = [Field("", body)]
    while pending:
        field = pending.pop()
        try:
            if not _is_list(field):
                yield _decode(field, Unknown.REFUSED)
                continue
            items = _items(field)
            pending.extend(reversed(items))
            yield from _problems_of_list(field)
        except FieldError as error:
            yield DecodeError(error, namespaces=namespaces_of(field.value))
        except DecodeError as error:
            yield error


def decode(body: object) -> Object | Ignored:
    """One object. Raises `DecodeError`. A list is not one object: it counts as ignored."""
    return _decode(Field("", body), Unknown.IGNORED)


def _is_list(field: Field) -> bool:
    kind = field.get("kind").value
    return isinstance(kind, str) and kind in LIST_VERSIONS and not is_of_another_group(field.get("apiVersion").value, kind)


def _problems_of_list(field: Field) -> Iterator[DecodeError]:
    kind = field.get("kind").text()
    for strange in unknown_fields(field, kind)[:1]:
        yield DecodeError(strange, key=kind, namespaces=namespaces_of(field.value))
    problem = _version_problem(field.get("apiVersion"), LIST_VERSIONS[kind])
    if problem is not None:
        yield DecodeError(problem, key=kind, consequence="its items are read all the same", namespaces=namespaces_of(field.value))


def _items(field: Field) -> list[Field]:
    items = field.get("items").items()
    kind = field.get("kind").text()
    if kind == "List":
        return items
    of_items = {"kind": kind.removesuffix("List"), "apiVersion": LIST_VERSIONS[kind]}
    return [Field(item.path, of_items | item.value) if isinstance(item.value, dict) else item for item in items]


def _version_problem(version: Field, expected: str) -> FieldError | None:
    return None if version.value == expected else version.error(f"must be {expected}, not {shown(version.value)}")


def _decode(body: Field, unknown: Unknown) -> Object | Ignored:
    kind = ""
    try:
        kind = _kind(body)
        if kind not in VERSIONS:
            _refuse_misspelt(body, kind, unknown)
            return Ignored(kind)
        version = body.get("apiVersion")
        if is_of_another_group(version.value, kind):
            return Ignored(f"{kind} of another API group")
        version_problem = _version_problem(version, VERSIONS[kind])
        problems = [] if version_problem is None else [version_problem]
        strange = unknown_fields(body, kind) if unknown is Unknown.REFUSED else []
        problems += strange
        if kind == "NetworkPolicy":
            # Even one of another version, or of none, may be meant for us: it must not be passed over in silence.
            return _network_policy(body, problems, strange)
        return _pod(body, problems) if kind == "Pod" else _namespace(body, problems)
    except FieldError as error:
        raise DecodeError(error, key=kind, namespaces=namespaces_of(body.value)) from error


def _refuse_misspelt(body: Field, kind: str, unknown: Unknown) -> None:
    meant = meant_kind(kind, body.mapping()) if unknown is Unknown.REFUSED else None
    if meant is not None:
        version = shown(body.get("apiVersion").value)
        expected = (VERSIONS | LIST_VERSIONS)[meant]
        raise body.get("kind").error(
            f"there is no kind {shown(kind)} in apiVersion {version}; did you mean {meant} of {expected}?"
        )


def _kind(body: Field) -> str:
    field = body.get("kind")
    kind = field.text()
    if not (kind.isascii() and kind.isalnum() and len(kind) <= _KIND_LENGTH):
        raise field.error(f"must be a kind, not {shown(field.value)}")
    return kind


def _namespace(body: Field, problems: list[FieldError]) -> Namespace:
    metadata = body.get("metadata")
    name = namespace_name(metadata.get("name"))
    try:
        labels = labels_where_valid(metadata.get("labels"), problems.append)
    except FieldError as error:
        problems.append(error)
        labels = {}
    decoded = Namespace(name=name, labels=labels | {NAMESPACE_NAME_LABEL: name})
    if problems:
        raise DecodeError(
            problems[0],
            key=str(decoded.key),
            partial=decoded,
            consequence="the rest of the namespace is used",
            namespaces=(name,),
        )
    return decoded


def _pod(body: Field, problems: list[FieldError]) -> Pod:
    metadata = body.get("metadata")
    name = object_name(metadata.get("name"))
    namespace = _namespace_of(metadata)
    decoded = pod(body, namespace, name, problems.append)
    if problems:
        raise DecodeError(
            problems[0],
            key=str(decoded.key),
            partial=decoded,
            consequence="the rest of the pod is used",
            namespaces=_other_namespaces(body, namespace),
        )
    return decoded


def _namespace_of(metadata: Field) -> str:
    field = metadata.get("namespace")
    return DEFAULT_NAMESPACE if field.absent or field.value == "" else namespace_name(field)


def _other_namespaces(body: Field, namespace: str) -> tuple[str, ...]:
    """Namespaces that an object names where the API does not look, as in a field `Namespace`."""
    return tuple(name for name in named_namespaces(body.value) if name != namespace)


def _network_policy(body: Field, problems: list[FieldError], strange: list[FieldError]) -> NetworkPolicy:
    """Reads part after part, so that what is wrong with one does not take away what the others say. `problems`: those known before,
    unknown fields among them; `strange`: these alone.
    """
    metadata, spec = body.get("metadata"), body.get("spec")
    namespace = _namespace_of(metadata)
    try:
        name = object_name(metadata.get("name"))
    except FieldError as error:
        problems.append(error)
        name = UNNAMED
    outer = [error.path.rpartition(".")[2].casefold() for error in strange if error.path.rpartition(".")[0] in {"", "spec"}]
    selector = LabelSelector()
    try:
        selector = pod_selector(spec)
        is_selector_clear = not any(error.path.startswith("spec.podSelector") for error in strange) and not any(
            word in name for name in outer for word in _SELECTING_WORDS
        )
    except FieldError as error:
        problems.append(error)
        is_selector_clear = False
    reach = "isolates the pods it selects" if is_selector_clear else f"isolates every pod of namespace {namespace}"
    if not is_selector_clear:
        selector = LabelSelector()
    try:
        types = policy_types(spec)
        if outer and not spec.get("policyTypes").elements():
            types = BOTH_DIRECTIONS  # an unknown field may have been meant as rules, or as policyTypes
    except FieldError as error:
        problems.append(error)
        types = BOTH_DIRECTIONS
    stand_in = NetworkPolicy(namespace=namespace, name=name, pod_selector=selector, policy_types=types)
    try:
        ingress, egress = rules(spec, Direction.INGRESS), rules(spec, Direction.EGRESS)
    except FieldError as error:
        problems.append(error)
        ingress = egress = ()
    if problems:
        raise DecodeError(
            problems[0],
            key=str(stand_in.key) if name else f"NetworkPolicy of namespace {namespace}",
            partial=stand_in,
            consequence=f"{reach} ({_names(types)}) and admits nothing",
            namespaces=_other_namespaces(body, namespace),
        )
    return NetworkPolicy(
        namespace=namespace, name=name, pod_selector=selector, policy_types=types, ingress=ingress, egress=egress
    )


def _names(types: frozenset[Direction]) -> str:
    return ", ".join(sorted(direction.api_name for direction in types))
