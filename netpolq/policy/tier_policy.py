"""Tier policies: one direction of a NetworkPolicy or of a cluster-wide policy, in one form.

Two endpoints with equal tier policies have equal decisions for every flow, down to the rule that decides. This is how the compiler finds
the addresses that a change concerns.
"""

from collections.abc import Mapping
from typing import NamedTuple

from netpolq.enums import Action, DenyWith, Direction, Tier
from netpolq.model import ClusterNetworkPolicy, ClusterRule, LabelSelector, NetworkPolicy, PolicyPort, PolicyRule, qualified_name
from netpolq.policy.peers import Peer, compiled_peer
from netpolq.policy.selectors import matches

Policy = NetworkPolicy | ClusterNetworkPolicy


class TierRule(NamedTuple):
    """A rule. `peers` None: every peer; empty: none. `ports` None: every port and protocol. `name`: as a cluster-wide policy names it."""

    action: Action
    peers: tuple[Peer, ...] | None
    ports: tuple[PolicyPort, ...] | None
    name: str


class TierPolicy(NamedTuple):
    """One direction of a policy. The order of evaluation in a tier is that of (`priority`, `name`).

    `name`: ns/name, or the qualified name of a cluster-wide policy. In the tier of NetworkPolicies, it isolates what it selects.
    `deny_with`: as the policy says, None if it does not.
    """

    tier: Tier
    priority: int
    name: str
    rules: tuple[TierRule, ...]
    deny_with: DenyWith | None = None

    @property
    def precedence(self) -> tuple[int, str]:
        """The sort key within a tier."""
        return self.priority, self.name


def selects(policy: Policy, namespace_labels: Mapping[str, str], pod_labels: Mapping[str, str]) -> bool:
    """Whether a policy selects a pod: for a NetworkPolicy, one of its own namespace."""
    match policy:
        case NetworkPolicy():
            return matches(policy.pod_selector, pod_labels)
        case ClusterNetworkPolicy():
            namespaces = policy.subject.namespace_selector or LabelSelector()
            return matches(namespaces, namespace_labels) and matches(policy.subject.pod_selector, pod_labels)


def tier_policy(policy: Policy, direction: Direction) -> TierPolicy | None:
    """One direction of a policy; None if it decides nothing there.

    A NetworkPolicy isolates in each of its policy types, and its rules accept. A cluster-wide policy decides where it has rules.
    """
    match policy:
        case NetworkPolicy():
            if direction not in policy.policy_types:
                return None
            accepting = tuple(_tier_rule(Action.ACCEPT, "", rule, policy.namespace) for rule in policy.rules(direction))
            return TierPolicy(Tier.NETWORK_POLICY, 0, qualified_name(policy.namespace, policy.name), accepting, policy.deny_with)
        case ClusterNetworkPolicy():
            rules = tuple(_tier_rule(rule.action, rule.name, rule, "") for rule in policy.rules(direction))
            if not rules:
                return None
            return TierPolicy(policy.tier, policy.priority, policy.qualified_name, rules, policy.deny_with)


def _tier_rule(action: Action, name: str, rule: PolicyRule | ClusterRule, namespace: str) -> TierRule:
    peers = None if rule.peers is None else tuple(compiled_peer(namespace, peer) for peer in rule.peers)
    return TierRule(action, peers, rule.ports, name)
