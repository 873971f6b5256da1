"""Fields that the API defines, and the search for unknown ones, which strict field validation refuses.

The agent never ignores an unknown field of a manifest: a rule with `From` would have no peers and admit everything. The schemas of
NetworkPolicy, Namespace and cluster-wide policies are complete; those of Pod and Node have the levels with fields that the agent reads.

Source: the OpenAPI schemas of Kubernetes 1.25 to 1.37, together; `tests/unit/sources/decode/test_known_fields.py` compares. For
cluster-wide policies the experimental channel of `policy.networking.k8s.io`.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from netpolq.sources.decode.fields import SHOWN_CHARACTERS, Field, FieldError, shown
from netpolq.sources.decode.kinds import VERSIONS

Schema = Mapping[str, "Schema | None"]
"""Known fields of an object. The value: the schema of the object, or of each object of the list; None for a value that is not checked."""

_SIMILAR = 0.7
"""Similarity (0 to 1) from which the message suggests a known field. `egres` and `egress` have 0.91, `port` and `ports` 0.89."""
MAX_UNKNOWN = 1000
"""Maximum number of unknown fields found in one object."""
_MAX_HINTS = 20
"""Maximum number of unknown fields with a suggestion: a suggestion takes about 0.1 ms."""


def _plain(names: str) -> dict[str, "Schema | None"]:
    return dict.fromkeys(names.split())


_METADATA = _plain(
    "annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName generation labels managedFields "
    "name namespace ownerReferences resourceVersion selfLink uid"
)
_OBJECT: dict[str, Schema | None] = {"apiVersion": None, "kind": None, "metadata": _METADATA}
_SELECTOR: Schema = {"matchLabels": None, "matchExpressions": _plain("key operator values")}
_PEERS: Schema = {"podSelector": _SELECTOR, "namespaceSelector": _SELECTOR, "ipBlock": _plain("cidr except")}
_PORTS: Schema = _plain("protocol port endPort")
_POLICY: Schema = _OBJECT | {
    "spec": {
        "podSelector": _SELECTOR,
        "policyTypes": None,
        "ingress": {"from": _PEERS, "ports": _PORTS},
        "egress": {"to": _PEERS, "ports": _PORTS},
    },
    "status": None,  # 1.24 to 1.27 print one
}
_SUBJECT: Schema = {"namespaces": _SELECTOR, "pods": {"namespaceSelector": _SELECTOR, "podSelector": _SELECTOR}}
_BASELINE_EGRESS_PEERS: Schema = {**_SUBJECT, "networks": None, "nodes": _SELECTOR}
_EGRESS_PEERS: Schema = {**_BASELINE_EGRESS_PEERS, "domainNames": None}
_TRANSPORT: Schema = {"destinationPort": {"number": None, "range": _plain("start end")}}
_PROTOCOLS: Schema = {"tcp": _TRANSPORT, "udp": _TRANSPORT, "sctp": _TRANSPORT, "destinationNamedPort": None}
_ADMIN_PORTS: Schema = {"portNumber": _plain("protocol port"), "portRange": _plain("protocol start end"), "namedPort": None}


def _cluster_policy(placement: str, ports_name: str, ports: Schema, egress_peers: Schema = _EGRESS_PEERS) -> Schema:
    """The schema of a kind of cluster-wide policy. `placement`: the fields that place it among the others."""
    rule: dict[str, Schema | None] = {"name": None, "action": None, ports_name: ports}
    spec = _plain(placement) | {
        "subject": _SUBJECT,
        "ingress": {**rule, "from": _SUBJECT},
        "egress": {**rule, "to": egress_peers},
    }
    return _OBJECT | {"spec": spec, "status": None}


_NODE: Schema = _OBJECT | {"spec": None, "status": None}
_NAMESPACE: Schema = _OBJECT | {"spec": _plain("finalizers"), "status": _plain("conditions phase")}
_CONTAINERS: Schema = _plain(
    "args command env envFrom image imagePullPolicy lifecycle livenessProbe name readinessProbe resizePolicy resources restartPolicy "
    "restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices "
    "volumeMounts workingDir"
) | {"ports": _plain("containerPort hostIP hostPort name protocol")}
_POD_SPEC: Schema = _plain(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks ephemeralContainers "
    "evictionResponders hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets nodeName nodeSelector "
    "os overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName "
    "schedulerName schedulingGates schedulingGroup securityContext serviceAccount serviceAccountName setHostnameAsFQDN "
    "shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes workloadRef"
) | {"containers": _CONTAINERS, "initContainers": _CONTAINERS}
_POD_STATUS: Schema = _plain(
    "allocatedResources conditions containerStatuses ephemeralContainerStatuses extendedResourceClaimStatus hostIP "
    "initContainerStatuses message nodeAllocatableResourceClaimStatuses nominatedNodeName observedGeneration phase podIP qosClass reason "
    "resize resourceClaimStatuses resources startTime volumeHealth"
) | {"podIPs": _plain("ip"), "hostIPs": _plain("ip")}
_POD: Schema = _OBJECT | {"spec": _POD_SPEC, "status": _POD_STATUS}
_LIST: Schema = {
    "apiVersion": None,
    "kind": None,
    "metadata": _plain("continue remainingItemCount resourceVersion selfLink shardInfo"),
    "items": None,
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "NetworkPolicy": _POLICY,
    "Namespace": _NAMESPACE,
    "Pod": _POD,
    "Node": _NODE,
    "ClusterNetworkPolicy": _cluster_policy("tier priority", "protocols", _PROTOCOLS),
    "AdminNetworkPolicy": _cluster_policy("priority", "ports", _ADMIN_PORTS),
    "BaselineAdminNetworkPolicy": _cluster_policy("", "ports", _ADMIN_PORTS, _BASELINE_EGRESS_PEERS),
    "List": _LIST,
    **{f"{kind}List": _LIST for kind in VERSIONS},
}

_UNKNOWN: Schema = {}
_COUNTERPARTS = {"from": "to", "to": "from"}


def unknown_fields(body: Field, kind: str) -> list[FieldError]:
    """An error for each field that the API does not define, outermost first, at most `MAX_UNKNOWN`. The readers of the fields check
    their types.
    """
    root = SCHEMAS[kind]
    if all_known(body.value, root):  # the usual case, without paths
        return []
    found: list[FieldError] = []
    pending: list[tuple[Field, Schema]] = [(body, root)]
    for field, schema in pending:
        value = field.value
        if not isinstance(value, dict):
            continue
        if not value.keys() <= schema.keys():
            for name in value:
                if name not in schema:
                    if len(found) >= MAX_UNKNOWN:
                        return found
                    found.append(_unknown_field(field, name, schema, root if len(found) < _MAX_HINTS else None))
        for name, inner in schema.items():
            if inner is not None and (held := value.get(name)):
                inside = Field(f"{field.path}.{name}" if field.path else name, held)
                if isinstance(held, list):
                    pending += [(Field(f"{inside.path}[{index}]", element), inner) for index, element in enumerate(held)]
                else:
                    pending.append((inside, inner))
    return found


def all_known(value: object, schema: Schema) -> bool:
    """Whether all fields of a value are known. Recurses as deep as schemas nest."""
    if isinstance(value, dict):
        for name, inside in value.items():
            inner = schema.get(name, _UNKNOWN)
            if inner is None:
                continue
            if inner is _UNKNOWN:
                return False
            if isinstance(inside, list):
                for element in inside:
                    if not all_known(element, inner):
                        return False
            elif not all_known(inside, inner):
                return False
    return True


def _unknown_field(field: Field, name: object, schema: Schema, root: Schema | None) -> FieldError:
    """The error of an unknown field, with a hint if a root schema is given."""
    text = (
        name if isinstance(name, str) and name.isascii() and name.isprintable() and len(name) <= SHOWN_CHARACTERS else shown(name)
    )
    path = f"{field.path}.{text}" if field.path else text
    hint = "" if root is None else _hint(text, schema, root)
    return FieldError(path, f"unknown field{hint}", unknown_in=field.path)


def _hint(name: str, schema: Schema, root: Schema) -> str:
    """A suggestion: a similar field of the same object, or the path to which a field of this name belongs."""
    other = _COUNTERPARTS.get(name)
    if other in schema:
        return f"; did you mean {other}?"
    by_small = {known.casefold(): known for known in schema}
    paths = list(_paths(name, root, ""))
    close = get_close_matches(name.casefold(), by_small, n=1, cutoff=_SIMILAR)
    if close and (not paths or by_small[close[0]].casefold() == name.casefold()):
        return f"; did you mean {by_small[close[0]]}?"
    if paths:
        belongs = f"; it belongs to {' or '.join(paths[:2])}"
        return belongs + (f"; did you mean {by_small[close[0]]}?" if close else "")
    return ""


def _paths(name: str, schema: Schema, path: str) -> Iterator[str]:
    if name in schema:
        yield path or "the top level"
    for inner_name, inner in schema.items():
        if inner is not None:
            yield from _paths(name, inner, f"{path}.{inner_name}" if path else inner_name)
