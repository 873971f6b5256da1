"""Renderers of an explanation: text for people, JSON for programs."""

import orjson

from netpolq.addresses import AddressKey, format_address
from netpolq.decision import Isolation, RuleDecision, decision_fields, decision_text, tier_of
from netpolq.enums import AuditVerdict, Direction, Reason, Tier, Verdict
from netpolq.explain.additions import advice_for, as_fields
from netpolq.explain.endpoints import Endpoint
from netpolq.explain.flow import has_ports, protocol_name
from netpolq.logs import one_line
from netpolq.policy.evaluator import Explanation, Side
from netpolq.policy.misses import MAX_LISTED, and_more
from netpolq.policy.name_reasons import NameReasons, Opening
from netpolq.policy.near_miss import NearMiss, NearMisses

BECAUSE = {
    Reason.NOT_ISOLATED: "no policy isolates either endpoint",
    Reason.ALLOWED: "every isolated endpoint allows it",
    Reason.SAME_ADDRESS: "a pod can always reach itself",
    Reason.OWN_NODE: "a node can always reach its own pods",
}


_INDENT = 13


def as_text(
    explanation: Explanation,
    misses: NearMisses,
    reasons: NameReasons,
    source: Endpoint,
    destination: Endpoint,
    protocol: int,
    port: int,
    audit: Explanation | None = None,
) -> str:
    """Return the verdict, both endpoints, and the result of each direction; for a denial, the near misses and what to add. Under the
    egress also what domain names have to do with it.
    """
    service = f"{protocol_name(protocol)} port {port}" if has_ports(protocol) else protocol_name(protocol)
    lines = [
        ("verdict", f"{verdict_word(explanation)}, {explanation.reason.label}: {_because(explanation)}"),
        *([] if audit is None else [("in audit", f"{AuditVerdict.of(audit.verdict)}: {_because(audit)}")]),
        ("source", str(source)),
        ("destination", f"{destination}, {service}"),
        ("egress", _side_text(explanation.egress)),
        *(("", line) for line in _name_lines(reasons, destination)),
        *(("", line) for line in _miss_lines(misses.egress, Direction.EGRESS)),
        ("ingress", _side_text(explanation.ingress)),
        *(("", line) for line in _miss_lines(misses.ingress, Direction.INGRESS)),
    ]
    return "".join(text_line(name, text) for name, text in lines)


def text_line(name: str, text: str) -> str:
    """Return a line of a text answer."""
    return f"{name:<{_INDENT}}{one_line(text)}\n"


def _name_lines(reasons: NameReasons, destination: Endpoint) -> list[str]:
    address = destination.shown_address
    return [
        *(f"{pattern} matches {name}, a name of {address}" for pattern, name in reasons.matched[:MAX_LISTED]),
        *(f"{_opening_text(opening)} resolves to {address}" for opening in reasons.openings),
    ]


def _opening_text(opening: Opening) -> str:
    rule, patterns = opening
    name = f" ({rule.name})" if rule.name else ""
    names = " or ".join([*patterns[:MAX_LISTED], *and_more(patterns, "names")])
    return f"{rule.tier.label} {rule.policy}, spec.egress[{rule.position}]{name} allows it if {names}"


def _miss_lines(misses: tuple[NearMiss, ...], direction: Direction) -> list[str]:
    lines = [f"{miss.policy}: {miss.why}" for miss in misses]
    addition = advice_for(misses, direction)
    return [*lines, f"to allow it: {addition}"] if addition else lines


def as_fields_of_answer(
    explanation: Explanation,
    misses: NearMisses,
    reasons: NameReasons,
    source: Endpoint,
    destination: Endpoint,
    protocol: int,
    port: int,
    audit: Explanation | None = None,
) -> dict[str, object]:
    """Return what `as_text` tells as fields of a JSON object. `audit` is there if the policies in audit would change the
    verdict; `matched_names` and `allowed_if_resolved` of the egress are there if they have entries.
    """
    return {
        **summary(explanation),
        **({} if audit is None else {"audit": _audit_fields(audit)}),
        "source": _endpoint(source),
        "destination": _endpoint(destination),
        "protocol": protocol_name(protocol),
        "port": port if has_ports(protocol) else None,
        "egress": {
            **_side(explanation.egress),
            **_names(reasons),
            "near_misses": as_fields(misses.egress, Direction.EGRESS),
        },
        "ingress": {**_side(explanation.ingress), "near_misses": as_fields(misses.ingress, Direction.INGRESS)},
    }


def _audit_fields(audit: Explanation) -> dict[str, object]:
    return {"verdict": AuditVerdict.of(audit.verdict).value, "egress": _side(audit.egress), "ingress": _side(audit.ingress)}


def as_json_line(explanation: Explanation) -> bytes:
    """Return the short form for a batch. A direction that no policy decides is null, and no isolating policies are listed."""
    sides = {"egress": explanation.egress, "ingress": explanation.ingress}
    answer: dict[str, object] = {
        **summary(explanation),
        **{name: _allowed_by(side) if side.isolated_by or side.decision else None for name, side in sides.items()},
    }
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)


def echo(
    source: AddressKey,
    destination: AddressKey,
    protocol: int,
    port: int,
    port_name: str | None = None,
    *,
    via_service: bool = False,
) -> bytes:
    """Return the repeated fields of a question, for its answer: `{…`, without the end, so that the fields of the answer can follow.

    `port_name`: the port name of the question, if any; the field `dport_name` has it. The field `via_service` is present if it is true.
    """
    question = {
        "src": format_address(source),
        "dst": format_address(destination),
        "proto": protocol_name(protocol),
        "dport": port if has_ports(protocol) else None,
        **({} if port_name is None else {"dport_name": port_name}),
        **({"via_service": True} if via_service else {}),
    }
    return orjson.dumps(question)[:-1] + b","


def summary(explanation: Explanation) -> dict[str, str | None]:
    """Return the first fields of every JSON answer."""
    direction = explanation.direction
    return {
        "verdict": verdict_word(explanation),
        "direction": None if direction is None else direction.name.lower(),
        "tier": None if explanation.denial is None else tier_of(explanation.denial).label,
        "policy": explanation.policy,
        "reason": explanation.reason.label,
    }


def verdict_word(explanation: Explanation) -> str:
    """Return `accept` or `drop`."""
    return "accept" if explanation.verdict is Verdict.ACCEPT else "drop"


def _because(explanation: Explanation) -> str:
    match explanation.denial:
        case None:
            decided = [side.rule for side in (explanation.egress, explanation.ingress) if side.rule is not None]
            if explanation.reason is Reason.ALLOWED and any(rule.tier is not Tier.NETWORK_POLICY for rule in decided):
                return "a rule allows it in each direction that policies decide"
            return BECAUSE[explanation.reason]
        case Isolation(direction, policies) as isolation:
            answer = ", with an answer" if isolation.is_rejected else ""
            return f"{direction.name.lower()} is isolated by {', '.join(policies)} and nothing allows it{answer}"
        case RuleDecision() as rule:
            return decision_text(rule)


def _side_text(side: Side) -> str:
    """The chain of tiers as far as it was evaluated, and the decision at its end."""
    chain = [_without_direction(rule) for rule in side.passes]
    rule = side.rule
    if rule is not None and rule.tier is Tier.ADMIN:
        return "; ".join([*chain, _without_direction(rule)])
    isolated = f"isolated by {', '.join(side.isolated_by)}" if side.isolated_by else "not isolated"
    # NetworkPolicy never passes, so a second pass is one of the Baseline tier.
    chain.insert(sum(passed.tier is Tier.ADMIN for passed in side.passes), isolated)
    if rule is not None:
        chain.append(_without_direction(rule))
    elif side.decision is not None:
        chain.append("no rule allows it")
    elif side.isolated_by:
        chain.append("no NetworkPolicy cuts a pod from itself")
    return "; ".join(chain)


def _without_direction(rule: RuleDecision) -> str:
    return decision_text(rule).split(" ", 1)[1]


def _side(side: Side) -> dict[str, object]:
    return {
        "isolated_by": list(side.isolated_by),
        **_allowed_by(side),
        "decision": decision_fields(side.decision),
        "passes": list(map(decision_fields, side.passes)),
    }


def _names(reasons: NameReasons) -> dict[str, object]:
    matched = [match._asdict() for match in reasons.matched]
    openings = [{**(decision_fields(rule) or {}), "domain_names": list(patterns)} for rule, patterns in reasons.openings]
    return {**({"matched_names": matched} if matched else {}), **({"allowed_if_resolved": openings} if openings else {})}


def _allowed_by(side: Side) -> dict[str, object]:
    rule = side.allowing_rule
    return {"allowed_by": None, "rule": None} if rule is None else {"allowed_by": rule.policy, "rule": rule.position}


def _endpoint(endpoint: Endpoint) -> dict[str, object]:
    if (workload := endpoint.workload) is not None:
        named = {"kind": workload.kind, "namespace": workload.namespace, "name": workload.name}
        return {"address": None, "pod": None, "nodes": [], "workload": named}
    return {"address": format_address(endpoint.address), "pod": endpoint.pod, "nodes": list(endpoint.nodes)}
