"""Placeholders for the unusable parts of a manifest: policies that isolate and admit nothing.

No object can have the name of a placeholder, so a placeholder never replaces an object. The name contains the file.
"""

from collections.abc import Iterable
from dataclasses import replace

from netpolq.enums import Action, Direction, SelectorOperator
from netpolq.model import ClusterNetworkPolicy, ClusterRule, Labels, LabelSelector, NetworkPolicy, Pod, Requirement

UNREADABLE_LABEL = "(unreadable)"
"""Label of a pod that is only partly readable. It is not a valid key, so no manifest and no other selector contains it."""

_UNREADABLE = "(unreadable "
_BOTH = frozenset(Direction)


def of_namespaces(namespaces: Iterable[str], origin: str) -> tuple[NetworkPolicy, ...]:
    """A placeholder for each namespace: isolates every pod of it in both directions."""
    return tuple(
        NetworkPolicy(
            namespace=namespace, name=f"{_UNREADABLE}part of {origin})", pod_selector=LabelSelector(), policy_types=_BOTH
        )
        for namespace in namespaces
    )


def of_policy(policy: NetworkPolicy, origin: str) -> NetworkPolicy:
    """A placeholder that isolates the pods of a policy, beside the older version of the policy that stays in force. A placeholder for an
    unreadable part is one already.
    """
    if policy.name.startswith(_UNREADABLE):
        return policy
    return replace(policy, name=f"({policy.name.strip('()')} as now in {origin})", ingress=(), egress=())


def of_cluster_policy(policy: ClusterNetworkPolicy, origin: str) -> ClusterNetworkPolicy:
    """The denials of a cluster-wide policy: its rules with another action match nothing."""
    return replace(
        policy,
        name=f"{policy.name} (as now in {origin})",
        ingress=tuple(map(_only_denying, policy.ingress)),
        egress=tuple(map(_only_denying, policy.egress)),
    )


def _only_denying(rule: ClusterRule) -> ClusterRule:
    return rule if rule.action is Action.DENY else rule._replace(peers=())


def marked(pod: Pod, origin: str) -> tuple[Pod, NetworkPolicy]:
    """A partly readable pod with its label, and the placeholder that isolates it."""
    labels = Labels({**pod.labels, UNREADABLE_LABEL: f"({pod.name} of {origin})"})
    selector = LabelSelector((Requirement(UNREADABLE_LABEL, SelectorOperator.IN, (labels[UNREADABLE_LABEL],)),))
    return replace(pod, labels=labels), NetworkPolicy(
        namespace=pod.namespace, name=f"{_UNREADABLE}pod {pod.name} of {origin})", pod_selector=selector, policy_types=_BOTH
    )
