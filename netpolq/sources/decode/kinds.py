"""Kinds that the agent uses, and the detection of misspelled ones.

`NetworkPolicies`, `networkpolicy` or a policy of `networking.k8s.io/v1beta1` is not an object of a foreign kind that the agent ignores:
it was intended to isolate. Kinds of other API groups (CiliumNetworkPolicy, Deployment, the ClusterNetworkPolicy of `crd.antrea.io`) and
all real kinds of the core group are foreign.
"""

from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Final, get_args

from netpolq.model import ClusterPolicyKind

CORE_VERSION = "v1"
NETWORKING_GROUP = "networking.k8s.io"
NETWORKING_VERSION = f"{NETWORKING_GROUP}/v1"
CLUSTER_GROUP = "policy.networking.k8s.io"

CLUSTER_POLICIES: Final[Mapping[str, ClusterPolicyKind]] = {kind: kind for kind in get_args(ClusterPolicyKind)}
CLUSTER_WIDE = CLUSTER_POLICIES.keys() | {"Node"}
"""Kinds that isolate no pods and need none isolated when they cannot be read."""

VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Namespace": (CORE_VERSION,),
    "Pod": (CORE_VERSION,),
    "Node": (CORE_VERSION,),
    "NetworkPolicy": (NETWORKING_VERSION,),
    "ClusterNetworkPolicy": (f"{CLUSTER_GROUP}/v1beta1", f"{CLUSTER_GROUP}/v1alpha2"),
    "AdminNetworkPolicy": (f"{CLUSTER_GROUP}/v1alpha1",),
    "BaselineAdminNetworkPolicy": (f"{CLUSTER_GROUP}/v1alpha1",),
}
"""Versions of each kind, the newest first."""

LIST_VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "List": (CORE_VERSION,),
    **{f"{kind}List": versions for kind, versions in VERSIONS.items()},
}
USED: Final[Mapping[str, tuple[str, ...]]] = {**VERSIONS, **LIST_VERSIONS}

_POLICY_GROUPS = frozenset({NETWORKING_GROUP, "extensions", ""})
"""Groups whose NetworkPolicy the agent uses: the current one, the original one, and the core group, for a missing group."""
_CLUSTER_GROUPS = frozenset({CLUSTER_GROUP, NETWORKING_GROUP, ""})
"""Groups whose cluster-wide policies the agent uses: theirs, and what stays of it without its start, or without a group."""
_FOREIGN = frozenset({
    "APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Binding", "ComponentStatus", "ConfigMap",
    "DeleteOptions", "Endpoints", "Event", "Eviction", "LimitRange", "PersistentVolume",
    "PersistentVolumeClaim", "PodTemplate", "PodExec", "PodDisruptionBudget", "ReplicationController", "ResourceQuota",
    "Secret", "Service", "ServiceAccount", "Status", "WatchEvent", "Ingress", "IngressClass", "IPAddress",
    "ServiceCIDR",
})  # fmt: skip
"""Unused kinds of the groups core, extensions and networking.k8s.io. Source: the OpenAPI schemas of Kubernetes 1.25 to 1.37."""
_SIMILAR = 0.85
"""Similarity from which a kind counts as misspelled. `NetworkPolcy` and `NetworkPolicy` have 0.96, `Pods` and `Pod` 0.86."""
_SIMILAR_GROUP = 0.75
"""The same for groups. `networking.k8s` and `networking.k8s.io` have 0.90."""
_POLICY_FIELDS = frozenset({"podSelector", "policyTypes"})
_CLUSTER_POLICY_FIELDS = frozenset({"subject", "tier", "priority"})


def group_of(version: object) -> str:
    """The API group of an apiVersion; empty for the core group and for a value that is not a string."""
    return version.rpartition("/")[0] if isinstance(version, str) else ""


def is_of_another_group(version: object, kind: str) -> bool:
    """Whether this is another API group's kind of the same name. A group similar to that of the kind is a misspelled one."""
    group = group_of(version)
    if _is_cluster_policy(kind):
        return not _is_nearly_cluster(group)
    if kind.startswith("NetworkPolicy"):
        return not _is_nearly_networking(group)
    return group != ""


def intended_kind(kind: str, body: Mapping[object, object]) -> str | None:
    """The probably intended kind of an object of an unknown kind, or None. `kind`: as written."""
    group = group_of(body.get("apiVersion"))
    if kind in _FOREIGN or kind.removesuffix("List") in _FOREIGN:
        return None
    plain = "".join(character for character in kind.casefold() if character.isalnum())
    singular = plain.removesuffix("ies") + "y" if plain.endswith("ies") else plain
    similar: dict[str, float] = {}
    for used in USED:
        name = used.casefold()
        is_nearly, groups = (
            (_is_nearly_cluster, _CLUSTER_GROUPS) if _is_cluster_policy(used) else (_is_nearly_networking, _POLICY_GROUPS)
        )
        if is_nearly(group) and name in {plain, singular, plain.removesuffix("s")}:
            return used
        # A group with a similar name may have its own kinds, such as FQDNNetworkPolicy.
        if group in groups:
            similar[used] = SequenceMatcher(None, name, plain).ratio()
    closest = max(similar, key=similar.__getitem__, default=None)
    if closest is not None and similar[closest] >= _SIMILAR:
        return closest
    if group == NETWORKING_GROUP or (_is_nearly_networking(group) and _has_any(body.get("spec"), _POLICY_FIELDS)):
        return "NetworkPolicy"
    if _is_nearly_cluster(group) and _has_any(body.get("spec"), _CLUSTER_POLICY_FIELDS):
        return "ClusterNetworkPolicy"
    return None


def _is_cluster_policy(kind: str) -> bool:
    return kind.removesuffix("List") in CLUSTER_POLICIES


def _is_nearly_networking(group: str) -> bool:
    small = group.casefold()
    if group in _POLICY_GROUPS or small in {"networking", "network"}:
        return True
    return not small.startswith("policy.") and _similarity(small, NETWORKING_GROUP) >= _SIMILAR_GROUP


def _is_nearly_cluster(group: str) -> bool:
    small = group.casefold()
    if group in _CLUSTER_GROUPS or small in {"networking", "network", "policy"}:
        return True
    return _similarity(small, CLUSTER_GROUP) >= _SIMILAR_GROUP


def _similarity(text: str, of: str) -> float:
    return SequenceMatcher(None, of, text).ratio()


def _has_any(spec: object, names: frozenset[str]) -> bool:
    return isinstance(spec, dict) and any(name in spec for name in names)
