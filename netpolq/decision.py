"""Decisions: why one direction of a flow was accepted or denied.

A decision is a rule that accepted or denied, or the isolation by NetworkPolicies of which no rule allowed the flow. Both evaluators, the
packet log and `netpolq explain` name decisions with these values.
"""

from typing import NamedTuple

from netpolq.enums import Action, DenyWith, Direction, Tier


class RuleDecision(NamedTuple):
    """A rule decided. `policy`: ns/name, or the qualified name of a cluster-wide policy. `position`: 0-based index in its list of this
    direction; `name`: as the policy names the rule, or empty. `is_rejected`: the sender of a packet that it denies gets an answer.
    """

    direction: Direction
    tier: Tier
    policy: str
    position: int
    action: Action
    name: str = ""
    is_rejected: bool = False


class Isolation(NamedTuple):
    """No rule allowed the flow, and these NetworkPolicies (ns/name, sorted) isolate the pod in this direction.

    `is_rejected`: the sender of a packet that it denies gets an answer.
    """

    direction: Direction
    policies: tuple[str, ...]
    is_rejected: bool = False


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
    no-metadata, spec.egress[0] (metadata), with an answer`.
    """
    direction = decision.direction.name.lower()
    answer = ", with an answer" if decision.is_rejected else ""
    if isinstance(decision, Isolation):
        return f"{direction} isolated by {', '.join(decision.policies)}{answer}"
    tier = "" if decision.tier is Tier.NETWORK_POLICY else f"{decision.tier.label} "
    name = f" ({decision.name})" if decision.name else ""
    return f"{direction} {_WORD[decision.action]} by {tier}{decision.policy}, spec.{direction}[{decision.position}]{name}{answer}"


def decision_fields(decision: Decision | None) -> dict[str, object] | None:
    """The decision as JSON fields; None if no policy decides. `deny_with` is there if a packet that it denies is answered."""
    match decision:
        case None:
            return None
        case Isolation(_, policies):
            return {"isolated_by": policies} | _deny_with(decision)
        case RuleDecision(_, tier, policy, position, action, name):
            return {
                "tier": tier.label,
                "policy": policy,
                "rule": position,
                "rule_name": name or None,
                "action": action.name.lower(),
            } | _deny_with(decision)


def _deny_with(decision: Decision) -> dict[str, object]:
    return {"deny_with": DenyWith.REJECT.value} if decision.is_rejected else {}
