"""Decisions: why one direction of a flow was accepted or denied.

A decision is a rule that accepted or denied, or the isolation by NetworkPolicies of which no rule allowed the flow. Both evaluators, the
packet log and `netpolq explain` name decisions with these values.
"""

from typing import NamedTuple

from netpolq.enums import Action, Direction, Tier


class RuleDecision(NamedTuple):
    """A rule decided. `policy`: ns/name, or the qualified name of a cluster-wide policy. `position`: 0-based index in its list of this
    direction; `name`: as the policy names the rule, or empty.
    """

    direction: Direction
    tier: Tier
    policy: str
    position: int
    action: Action
    name: str = ""


class Isolation(NamedTuple):
    """No rule allowed the flow, and these NetworkPolicies (ns/name, sorted) isolate the pod in this direction."""

    direction: Direction
    policies: tuple[str, ...]


Decision = RuleDecision | Isolation

_WORD = {Action.ACCEPT: "allowed", Action.DENY: "denied", Action.PASS: "passed"}


def tier_of(decision: Decision) -> Tier:
    """The tier that decided."""
    return Tier.NETWORK_POLICY if isinstance(decision, Isolation) else decision.tier


def denies(decision: Decision | None) -> bool:
    """Whether a direction is denied. None: no policy decides the direction, so it is accepted."""
    return isinstance(decision, Isolation) or (decision is not None and decision.action is Action.DENY)


def decision_text(decision: Decision) -> str:
    """The decision in words: `egress isolated by shop/web`, `ingress allowed by shop/web, spec.ingress[0]`, `egress denied by admin
    no-metadata, spec.egress[0] (metadata)`.
    """
    direction = decision.direction.name.lower()
    if isinstance(decision, Isolation):
        return f"{direction} isolated by {', '.join(decision.policies)}"
    tier = "" if decision.tier is Tier.NETWORK_POLICY else f"{decision.tier.label} "
    name = f" ({decision.name})" if decision.name else ""
    return f"{direction} {_WORD[decision.action]} by {tier}{decision.policy}, spec.{direction}[{decision.position}]{name}"


def decision_fields(decision: Decision | None) -> dict[str, object] | None:
    """The decision as JSON fields; None if no policy decides."""
    match decision:
        case None:
            return None
        case Isolation(_, policies):
            return {"isolated_by": policies}
        case RuleDecision(_, tier, policy, position, action, name):
            return {
                "tier": tier.label,
                "policy": policy,
                "rule": position,
                "rule_name": name or None,
                "action": action.name.lower(),
            }
