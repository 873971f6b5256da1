"""Decisions: why one direction of a flow was accepted or denied.

A decision is a rule that accepted or denied, or the isolation by NetworkPolicies of which no rule allowed the flow. Both evaluators, the
packet log and `netpolq explain` name decisions with these values.
"""

from typing import NamedTuple

from netpolq.enums import Action, Direction, Tier


class RuleDecision(NamedTuple):
    """A rule decided. `policy`: ns/name, or the name of a cluster-wide policy; `position`: 0-based index in its list of this direction."""

    direction: Direction
    tier: Tier
    policy: str
    position: int
    action: Action


class Isolation(NamedTuple):
    """No rule allowed the flow, and these NetworkPolicies (ns/name, sorted) isolate the pod in this direction."""

    direction: Direction
    policies: tuple[str, ...]


Decision = RuleDecision | Isolation


def denies(decision: Decision | None) -> bool:
    """Whether a direction is denied. None: no policy decides the direction, so it is accepted."""
    return isinstance(decision, Isolation) or (decision is not None and decision.action is Action.DENY)


def decision_text(decision: Decision) -> str:
    """The decision in words, e.g. `egress isolated by shop/web` or `ingress allowed by shop/web, spec.ingress[0]`."""
    direction = decision.direction.name.lower()
    if isinstance(decision, Isolation):
        return f"{direction} isolated by {', '.join(decision.policies)}"
    word = "denied" if decision.action is Action.DENY else "allowed"
    tier = "" if decision.tier is Tier.NETWORK_POLICY else f"{decision.tier.label} "
    return f"{direction} {word} by {tier}{decision.policy}, spec.{direction}[{decision.position}]"
