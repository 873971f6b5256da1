"""Kinds that look like one of ours: an object that the API server would not take for what its author meant.

`NetworkPolicies`, `networkpolicy` or a policy of `networking.k8s.io/v1beta1` is not an object of a foreign kind, to be passed over:
it was meant to isolate. Kinds of other API groups (CiliumNetworkPolicy, Deployment) and all real kinds of the core group are foreign.
"""

from collections.abc import Mapping
from difflib import SequenceMatcher

CORE_VERSION = "v1"
NETWORKING_GROUP = "networking.k8s.io"
NETWORKING_VERSION = f"{NETWORKING_GROUP}/v1"

VERSIONS = {"Namespace": CORE_VERSION, "Pod": CORE_VERSION, "NetworkPolicy": NETWORKING_VERSION}
LIST_VERSIONS = {"List": CORE_VERSION} | {f"{kind}List": version for kind, version in VERSIONS.items()}
POLICY_GROUPS = frozenset({NETWORKING_GROUP, "extensions", ""})
"""Groups whose NetworkPolicy is meant for us: ours, the one it was born in, and the core group, as when ours was forgotten."""

_OURS = {**VERSIONS, **LIST_VERSIONS}
_FOREIGN = frozenset({
    "APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Binding", "ComponentStatus", "ConfigMap",
    "DeleteOptions", "Endpoints", "Event", "Eviction", "LimitRange", "Node", "PersistentVolume",
    "PersistentVolumeClaim", "PodTemplate", "PodExec", "PodDisruptionBudget", "ReplicationController", "ResourceQuota",
    "Secret", "Service", "ServiceAccount", "Status", "WatchEvent", "Ingress", "IngressClass", "IPAddress",
    "ServiceCIDR",
})  # fmt: skip
"""Kinds of the groups core, extensions and networking.k8s.io that are not ours. Source: the OpenAPI schemas of Kubernetes 1.25 to 1.37."""
_SIMILAR = 0.85
"""Likeness from which a kind is taken for a misspelt one. `NetworkPolcy` and `NetworkPolicy` have 0.96, `Pods` and `Pod` 0.86."""
_SIMILAR_GROUP = 0.75
"""The same for groups. `networking.k8s` and `networking.k8s.io` have 0.90."""
_POLICY_FIELDS = ("podSelector", "policyTypes")


def group_of(version: object) -> str:
    """The API group of an apiVersion; empty for the core group and for what is no text."""
    return version.rpartition("/")[0] if isinstance(version, str) else ""


def is_of_another_group(version: object, kind: str) -> bool:
    """Whether this is another API group's kind of the same name. A group that is nearly ours is a misspelt one."""
    group = group_of(version)
    if kind.startswith("NetworkPolicy"):
        return group not in POLICY_GROUPS and not _is_nearly_ours(group)
    return group != ""


def intended_kind(kind: str, body: Mapping[object, object]) -> str | None:
    """The kind of ours that an object of no known kind was probably meant to have, or None. `kind`: as written, not one of ours."""
    group = group_of(body.get("apiVersion"))
    if kind in _FOREIGN or kind.removesuffix("List") in _FOREIGN:
        return None
    nearly = group in POLICY_GROUPS or _is_nearly_ours(group)
    plain = "".join(character for character in kind.casefold() if character.isalnum())
    singular = plain.removesuffix("ies") + "y" if plain.endswith("ies") else plain
    for ours in _OURS:
        name = ours.casefold()
        if nearly and name in {plain, singular, plain.removesuffix("s")}:
            return ours
        # In a group that only looks like ours there may be kinds of its own, as FQDNNetworkPolicy.
        if group in POLICY_GROUPS and SequenceMatcher(None, name, plain).ratio() >= _SIMILAR:
            return ours
    if group == NETWORKING_GROUP or (nearly and _has_policy_fields(body.get("spec"))):
        return "NetworkPolicy"
    return None


def _is_nearly_ours(group: str) -> bool:
    small = group.casefold()
    if small.startswith("policy.") or not small:
        return False
    return SequenceMatcher(None, NETWORKING_GROUP, small).ratio() >= _SIMILAR_GROUP or small in {"networking", "network"}


def _has_policy_fields(spec: object) -> bool:
    return isinstance(spec, dict) and any(name in spec for name in _POLICY_FIELDS)
