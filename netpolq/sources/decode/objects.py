"""Readers of namespaces, nodes, pods and NetworkPolicies, and the placeholder for a NetworkPolicy that is unusable.

Each function adds to the given problems, and raises `DecodeError` if there are any at the end.
"""

from dataclasses import replace

from netpolq.enums import Direction
from netpolq.model import NAMESPACE_NAME_LABEL, LabelSelector, Namespace, NetworkPolicy, Node, Pod
from netpolq.sources.decode.annotations import deny_with, enforcement
from netpolq.sources.decode.concerned_namespaces import DEFAULT_NAMESPACE, named_namespaces, namespaces_of
from netpolq.sources.decode.error import DecodeError
from netpolq.sources.decode.fields import Field, FieldError, read_or
from netpolq.sources.decode.known_fields import MAX_UNKNOWN
from netpolq.sources.decode.node import node as read_node
from netpolq.sources.decode.pod import pod as read_pod
from netpolq.sources.decode.policy import BOTH_DIRECTIONS, pod_selector, policy_types, rules
from netpolq.sources.decode.problems import Problems
from netpolq.sources.decode.validation import labels_where_valid, namespace_name, object_name

UNNAMED = ""
"""Name of the placeholder for a policy without a readable name; the caller names it."""

_NOTHING = Field("", None)
_SELECTING_WORDS = ("select", "match", "label", "pod")
"""An unknown field of a policy with one of these in its name may be intended as the pod selector."""


def namespace(body: Field, problems: Problems) -> Namespace:
    """Read a namespace."""
    metadata = body.get("metadata")
    name = read_or(lambda field: namespace_name(field.get("name")), metadata, problems.add, None)
    labels = labels_where_valid(read_or(lambda field: field.get("labels"), metadata, problems.add, _NOTHING), problems.add)
    ignored: list[FieldError] = []
    answer = deny_with(metadata, ignored.append)
    enforced = enforcement(metadata, ignored.append)
    if name is None:
        raise DecodeError(body, problems, key="Namespace", namespaces=namespaces_of(body.value))
    decoded = Namespace(name=name, labels=labels | {NAMESPACE_NAME_LABEL: name}, deny_with=answer, enforcement=enforced)
    isolates = problems.count > 0
    problems.add_all(ignored)
    if problems.count:
        raise DecodeError(
            body,
            problems,
            key=str(decoded.key),
            partial=decoded,
            consequence="the rest of the namespace is used",
            namespaces=(name,) if isolates else (),
            is_harmless=not isolates,
        )
    return decoded


def pod(body: Field, problems: Problems) -> Pod:
    """Read a pod."""
    metadata = body.get("metadata")
    name = read_or(_name_of, metadata, problems.add, None)
    of_namespace = read_or(_namespace_of, metadata, problems.add, None)
    decoded = read_pod(body, of_namespace or "", name or "", problems.add)
    if name is None or of_namespace is None:
        raise DecodeError(body, problems, key="Pod", namespaces=namespaces_of(body.value))
    if problems.count:
        raise DecodeError(
            body,
            problems,
            key=str(decoded.key),
            partial=decoded,
            consequence="the rest of the pod is used",
            namespaces=_other_namespaces(body, of_namespace),
        )
    return decoded


def node(body: Field, problems: Problems) -> Node:
    """Read a node."""
    name = read_or(_name_of, body.get("metadata"), problems.add, None)
    decoded = read_node(body, name or "", problems.add)
    if name is None:
        raise DecodeError(body, problems, key="Node", is_cluster_wide=True)
    if problems.count:
        raise DecodeError(
            body,
            problems,
            key=str(decoded.key),
            partial=decoded,
            consequence="the rest of the node is used",
            is_cluster_wide=True,
        )
    return decoded


def network_policy(body: Field, problems: Problems, unknown: list[FieldError]) -> NetworkPolicy:
    """Read a policy, each part independently, so that an error in one does not hide the others. `unknown`: its unknown fields, which
    are in `problems` already.
    """
    metadata = body.get("metadata")
    spec = read_or(Field.record, body.get("spec"), problems.add, None)
    of_namespace = read_or(_namespace_of, metadata, problems.add, None)
    name = read_or(_name_of, metadata, problems.add, UNNAMED)
    before = problems.count
    selector = LabelSelector() if spec is None else pod_selector(spec, problems.add)
    is_selector_clear = spec is not None and problems.count == before and not _may_select(body, unknown)
    if not is_selector_clear:
        selector = LabelSelector()
    before = problems.count
    types = BOTH_DIRECTIONS if spec is None else policy_types(spec, problems.add)
    if problems.count != before or (_outer_names(body, unknown) and spec is not None and not spec.get("policyTypes").value):
        types = BOTH_DIRECTIONS  # an unknown field may be intended as rules or policyTypes
    ingress = () if spec is None else rules(spec, Direction.INGRESS, problems.add)
    egress = () if spec is None else rules(spec, Direction.EGRESS, problems.add)
    is_clear = not problems.count
    answer = deny_with(metadata, problems.add)
    enforced = enforcement(metadata, problems.add)
    if of_namespace is None:
        raise DecodeError(body, problems, key="NetworkPolicy", namespaces=namespaces_of(body.value))
    placeholder = NetworkPolicy(
        namespace=of_namespace,
        name=name,
        pod_selector=selector,
        policy_types=types,
        deny_with=answer,
        enforcement=enforced,
    )
    if is_clear:
        policy = replace(placeholder, ingress=ingress, egress=egress)
        if problems.count:
            raise DecodeError(body, problems, key=str(policy.key), partial=policy, consequence="the rest of the policy is used")
        return policy
    reach = "isolates the pods it selects" if is_selector_clear else f"isolates every pod of namespace {of_namespace}"
    raise DecodeError(
        body,
        problems,
        key=str(placeholder.key) if name else f"NetworkPolicy of namespace {of_namespace}",
        partial=placeholder,
        consequence=f"{reach} ({_names(types)}) and admits nothing",
        namespaces=_other_namespaces(body, of_namespace),
    )


def _outer_names(body: Field, unknown: list[FieldError]) -> list[str]:
    """Unknown fields of the object itself and of its specification, in lower case."""
    holders = {body.path, body.get("spec").path}
    return [error.path[len(error.unknown_in) :].casefold() for error in unknown if error.unknown_in in holders]


def _may_select(body: Field, unknown: list[FieldError]) -> bool:
    """Whether an unknown field may be intended as the pod selector. Also true with too many unknown fields to list."""
    selector = body.get("spec").get("podSelector").path
    return (
        len(unknown) >= MAX_UNKNOWN
        or any(error.path.startswith(selector) for error in unknown)
        or any(word in name for name in _outer_names(body, unknown) for word in _SELECTING_WORDS)
    )


def _name_of(metadata: Field) -> str:
    return object_name(metadata.get("name"))


def _namespace_of(metadata: Field) -> str:
    field = metadata.get("namespace")
    return DEFAULT_NAMESPACE if field.absent or field.value == "" else namespace_name(field)


def _other_namespaces(body: Field, of_namespace: str) -> tuple[str, ...]:
    """Namespaces in fields that the API does not read, such as `Namespace`."""
    return tuple(name for name in named_namespaces(body.value) if name != of_namespace)


def _names(types: frozenset[Direction]) -> str:
    return ", ".join(sorted(direction.api_name for direction in types))
