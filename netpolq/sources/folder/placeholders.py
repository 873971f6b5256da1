"""What is in force for parts of a manifest that cannot be used as written: policies that isolate and admit nothing.

The names of stand-ins are none that an object can have, so that they never take the place of one; they name the file.
"""

from collections.abc import Iterable
from dataclasses import replace

from netpolq.enums import Direction, SelectorOperator
from netpolq.model import Labels, LabelSelector, NetworkPolicy, Pod, Requirement

UNREADABLE_LABEL = "(unreadable)"
"""Label of a pod that could not be read whole. No manifest can have it: it is no valid key, so no other selector names it."""

_BOTH = frozenset(Direction)


def of_namespaces(namespaces: Iterable[str], origin: str) -> tuple[NetworkPolicy, ...]:
    """A stand-in for each namespace: isolates every pod of it in both directions."""
    return tuple(
        NetworkPolicy(
            namespace=namespace, name=f"(unreadable part of {origin})", pod_selector=LabelSelector(), policy_types=_BOTH
        )
        for namespace in namespaces
    )


def of_policy(policy: NetworkPolicy, origin: str) -> NetworkPolicy:
    """What isolates the pods that a policy selects, beside an older version of it that stays in force."""
    return replace(policy, name=f"({policy.name.strip('()')} as now in {origin})", ingress=(), egress=())


def marked(pod: Pod, origin: str) -> tuple[Pod, NetworkPolicy]:
    """A pod that could not be read whole, and what isolates it alone."""
    labels = Labels({**pod.labels, UNREADABLE_LABEL: f"({pod.name} of {origin})"})
    selector = LabelSelector((Requirement(UNREADABLE_LABEL, SelectorOperator.IN, (labels[UNREADABLE_LABEL],)),))
    return replace(pod, labels=labels), NetworkPolicy(
        namespace=pod.namespace, name=f"(unreadable pod {pod.name} of {origin})", pod_selector=selector, policy_types=_BOTH
    )
