"""Kinds that the agent uses, and the detection of misspelled ones.

`NetworkPolicies`, `networkpolicy` or a policy of `networking.k8s.io/v1beta1` is not an object of a foreign kind that the agent ignores:
it was intended to isolate. Kinds of other API groups (CiliumNetworkPolicy, Deployment) and all real kinds of the core group are foreign.
"""

from collections.abc import Mapping
from difflib import SequenceMatcher

CORE_VERSION = "v1"
NETWORKING_GROUP = "networking.k8s.io"
NETWORKING_VERSION = f"{NETWORKING_GROUP}/v1"

VERSIONS = {"Namespace": CORE_VERSION, "Pod": CORE_VERSION, "NetworkPolicy": NETWORKING_VERSION}
LIST_VERSIONS = {"List": CORE_VERSION} | {f"{kind}List": version for kind, version in VERSIONS.items()}
POLICY_GROUPS = frozenset({NETWORKING_GROUP, "extensions", ""})
"""Groups whose NetworkPolicy the agent uses: the current one, the original one, and the core group, for a missing group."""

_USED = {**VERSIONS, **LIST_VERSIONS}
_FOREIGN = frozenset({
    "APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Binding", "ComponentStatus", "ConfigMap",
    "DeleteOptions", "Endpoints", "Event", "Eviction", "LimitRange", "Node", "PersistentVolume",
    "PersistentVolumeClaim", "PodTemplate", "PodExec", "PodDisruptionBudget", "ReplicationController", "ResourceQuota",
    "Secret", "Service", "ServiceAccount", "Status", "WatchEvent", "Ingress", "IngressClass", "IPAddress",
    "ServiceCIDR",
})  # fmt: skip
"""Unused kinds of the groups core, extensions and networking.k8s.io. Source: the OpenAPI schemas of Kubernetes 1.25 to 1.37."""
_SIMILAR = 0.85
"""Similarity from which a kind counts as misspelled. `NetworkPolcy` and `NetworkPolicy` have 0.96, `Pods` and `Pod` 0.86."""
_SIMILAR_GROUP = 0.75
"""The same for groups. `networking.k8s` and `networking.k8s.io` have 0.90."""
_POLICY_FIELDS = ("podSelector", "policyTypes")


def group_of(version: object) -> str:
    """The API group of an apiVersion; empty for the core group and for a value that is not a string."""
    return version.rpartition("/")[0] if isinstance(version, str) else ""


def is_of_another_group(version: object, kind: str) -> bool:
    """Whether this is another API group's kind of the same name. A group similar to networking.k8s.io is a misspelled one."""
    group = group_of(version)
    if kind.startswith("NetworkPolicy"):
        return group not in POLICY_GROUPS and not _is_similar_group(group)
    return group != ""


def intended_kind(kind: str, body: Mapping[object, object]) -> str | None:
    """The probably intended kind of an object of an unknown kind, or None. `kind`: as written."""
    group = group_of(body.get("apiVersion"))
    if kind in _FOREIGN or kind.removesuffix("List") in _FOREIGN:
        return None
    nearly = group in POLICY_GROUPS or _is_similar_group(group)
    plain = "".join(character for character in kind.casefold() if character.isalnum())
    singular = plain.removesuffix("ies") + "y" if plain.endswith("ies") else plain
    for used in _USED:
        name = used.casefold()
        if nearly and name in {plain, singular, plain.removesuffix("s")}:
            return used
        # A group with a similar name may have its own kinds, such as FQDNNetworkPolicy.
        if group in POLICY_GROUPS and SequenceMatcher(None, name, plain).ratio() >= _SIMILAR:
            return used
    if group == NETWORKING_GROUP or (nearly and _has_policy_fields(body.get("spec"))):
        return "NetworkPolicy"
    return None


def _is_similar_group(group: str) -> bool:
    small = group.casefold()
    if small.startswith("policy.") or not small:
        return False
    return SequenceMatcher(None, NETWORKING_GROUP, small).ratio() >= _SIMILAR_GROUP or small in {"networking", "network"}


def _has_policy_fields(spec: object) -> bool:
    return isinstance(spec, dict) and any(name in spec for name in _POLICY_FIELDS)
