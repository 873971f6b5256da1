"""From untyped API bodies to objects: the only way in, whether a body came from YAML, from JSON or from the API server.

API defaults are applied and every field that is used is checked; unknown fields are ignored, as the API server ignores them on reads.
For any value whatever, nothing but `DecodeError` is raised. Source: the Kubernetes API types named in `netpolq.model`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from netpolq.enums import Direction
from netpolq.model import NAMESPACE_NAME_LABEL, LabelSelector, Namespace, NetworkPolicy, Object, Pod
from netpolq.sources.decode_pod import pod
from netpolq.sources.decode_policy import BOTH_DIRECTIONS, pod_selector, policy_types, rules
from netpolq.sources.fields import Field, FieldError, shown
from netpolq.sources.shapes import labels_where_valid, namespace_name, object_name

CORE_VERSION = "v1"
NETWORKING_GROUP = "networking.k8s.io"
NETWORKING_VERSION = f"{NETWORKING_GROUP}/v1"
DEFAULT_NAMESPACE = "default"

UNNAMED = ""
"""Name of the stand-in for a policy whose own name cannot be read; whoever keeps it must give it one of its own."""

_VERSIONS = {"Namespace": CORE_VERSION, "Pod": CORE_VERSION, "NetworkPolicy": NETWORKING_VERSION}
_LIST_VERSIONS = {"List": CORE_VERSION} | {f"{kind}List": version for kind, version in _VERSIONS.items()}
_POLICY_GROUPS = frozenset({NETWORKING_GROUP, "extensions", ""})
"""Groups whose NetworkPolicy is meant for us: ours, the one it was born in, and the core group, as when ours was forgotten."""
_KIND_LENGTH = 63


class Ignored(NamedTuple):
    """An object of a kind that the agent does not use."""

    kind: str


class DecodeError(Exception):
    """An object that cannot be used as written. Only the first field that is wrong is named.

    `partial`: what to use in its place, or None. For a policy it isolates at least the pods that the policy would isolate and admits
    nothing; for a pod or namespace it is the part that could be read. `consequence` says so in words. `key`: the object, as far as known.
    """

    def __init__(self, field: FieldError, *, key: str = "", partial: Object | None = None, consequence: str = "") -> None:
        super().__init__(f"{key}: {field}" if key else str(field))
        self.field = field.path
        self.message = field.message
        self.key = key
        self.partial = partial
        self.consequence = consequence or "it is not used"


def decode_all(body: object) -> Iterator[Object | Ignored | DecodeError]:
    """Every object of a body, in order, lists expanded. Errors are part of the answer: one bad item does not hide the others.

    The items of a PodList, NamespaceList or NetworkPolicyList need not repeat apiVersion and kind, as in the API's own answers.
    """
    pending = [Field("", body)]
    while pending:
        field = pending.pop()
        try:
            if not _is_list(field):
                yield _decode(field)
                continue
            pending.extend(reversed(_items(field)))
            problem = _version_problem(field.get("apiVersion"), _LIST_VERSIONS[field.get("kind").text()])
            if problem is not None:
                yield DecodeError(problem, key=field.get("kind").text(), consequence="its items are read all the same")
        except FieldError as error:
            yield DecodeError(error)
        except DecodeError as error:
            yield error


def decode(body: object) -> Object | Ignored:
    """One object. Raises `DecodeError`. A list is not one object: it counts as ignored."""
    return _decode(Field("", body))


def _is_list(field: Field) -> bool:
    kind = field.get("kind").value
    return isinstance(kind, str) and kind in _LIST_VERSIONS and not _other_group(field.get("apiVersion"), kind)


def _items(field: Field) -> list[Field]:
    items = field.get("items").items()
    kind = field.get("kind").text()
    if kind == "List":
        return items
    of_items = {"kind": kind.removesuffix("List"), "apiVersion": _LIST_VERSIONS[kind]}
    return [Field(item.path, of_items | item.value) if isinstance(item.value, dict) else item for item in items]


def _other_group(version: Field, kind: str) -> bool:
    """Whether this is another API group's kind of the same name."""
    if not isinstance(version.value, str):
        return False
    group, _, _ = version.value.rpartition("/")
    return group not in (_POLICY_GROUPS if kind.startswith("NetworkPolicy") else {""})


def _version_problem(version: Field, expected: str) -> FieldError | None:
    return None if version.value == expected else version.error(f"must be {expected}, not {shown(version.value)}")


def _decode(body: Field) -> Object | Ignored:
    kind = ""
    try:
        kind = _kind(body)
        if kind not in _VERSIONS:
            return Ignored(kind)
        version = body.get("apiVersion")
        if _other_group(version, kind):
            return Ignored(f"{kind} of another API group")
        problem = _version_problem(version, _VERSIONS[kind])
        if kind == "NetworkPolicy":
            # Even one of another version, or of none, may be meant for us: it must not be passed over in silence.
            return _network_policy(body, [] if problem is None else [problem])
        if problem is not None:
            raise problem
        return _pod(body) if kind == "Pod" else _namespace(body)
    except FieldError as error:
        raise DecodeError(error, key=kind) from error


def _kind(body: Field) -> str:
    field = body.get("kind")
    kind = field.text()
    if not (kind.isascii() and kind.isalnum() and len(kind) <= _KIND_LENGTH):
        raise field.error(f"must be a kind, not {shown(field.value)}")
    return kind


def _namespace(body: Field) -> Namespace:
    metadata = body.get("metadata")
    name = namespace_name(metadata.get("name"))
    problems: list[FieldError] = []
    try:
        labels = labels_where_valid(metadata.get("labels"), problems.append)
    except FieldError as error:
        problems.append(error)
        labels = {}
    decoded = Namespace(name=name, labels=labels | {NAMESPACE_NAME_LABEL: name})
    if problems:
        raise DecodeError(problems[0], key=str(decoded.key), partial=decoded, consequence="the rest of the namespace is used")
    return decoded


def _pod(body: Field) -> Pod:
    metadata = body.get("metadata")
    name = object_name(metadata.get("name"))
    namespace = _namespace_of(metadata)
    problems: list[FieldError] = []
    decoded = pod(body, namespace, name, problems.append)
    if problems:
        raise DecodeError(problems[0], key=str(decoded.key), partial=decoded, consequence="the rest of the pod is used")
    return decoded


def _namespace_of(metadata: Field) -> str:
    field = metadata.get("namespace")
    return DEFAULT_NAMESPACE if field.absent or field.value == "" else namespace_name(field)


def _network_policy(body: Field, problems: list[FieldError]) -> NetworkPolicy:
    """Reads part after part, so that what is wrong with one does not take away what the others say. `problems`: those known before."""
    metadata, spec = body.get("metadata"), body.get("spec")
    namespace = _namespace_of(metadata)
    try:
        name = object_name(metadata.get("name"))
    except FieldError as error:
        problems.append(error)
        name = UNNAMED
    try:
        selector = pod_selector(spec)
        reach = "isolates the pods it selects"
    except FieldError as error:
        problems.append(error)
        selector = LabelSelector()
        reach = f"isolates every pod of namespace {namespace}"
    try:
        types = policy_types(spec)
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
        )
    return NetworkPolicy(
        namespace=namespace, name=name, pod_selector=selector, policy_types=types, ingress=ingress, egress=egress
    )


def _names(types: frozenset[Direction]) -> str:
    return ", ".join(sorted(direction.api_name for direction in types))
