"""An explanation as text for people and as one JSON object for programs."""

import orjson

from netpolq.addresses import format_address
from netpolq.enums import Direction, Reason, Verdict
from netpolq.explain.endpoints import Endpoint
from netpolq.explain.flow import has_ports, protocol_name
from netpolq.policy.engine import Explanation, Side

_BECAUSE = {
    Reason.NOT_ISOLATED: "no policy isolates either end",
    Reason.ALLOWED: "every isolated end allows it",
    Reason.SAME_ADDRESS: "a pod always reaches itself",
    Reason.OWN_NODE: "a pod's own node always reaches it",
}


def as_text(explanation: Explanation, source: Endpoint, destination: Endpoint, protocol: int, port: int) -> str:
    """Five lines: verdict, the two ends, and what each direction says."""
    service = f"{protocol_name(protocol)} port {port}" if has_ports(protocol) else protocol_name(protocol)
    lines = {
        "verdict": f"{verdict_word(explanation)}, {explanation.reason.label}: {_because(explanation)}",
        "source": str(source),
        "destination": f"{destination}, {service}",
        "egress": _side_text(Direction.EGRESS, explanation.egress),
        "ingress": _side_text(Direction.INGRESS, explanation.ingress),
    }
    return "".join(f"{name:<13}{text}\n" for name, text in lines.items())


def as_json(explanation: Explanation, source: Endpoint, destination: Endpoint, protocol: int, port: int) -> str:
    """The same as one JSON object on one line."""
    answer = {
        **summary(explanation),
        "source": _endpoint(source),
        "destination": _endpoint(destination),
        "protocol": protocol_name(protocol),
        "port": port if has_ports(protocol) else None,
        "egress": _side(explanation.egress),
        "ingress": _side(explanation.ingress),
    }
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE).decode()


def as_json_line(explanation: Explanation) -> bytes:
    """The short form of a batch. A direction is null where it does not isolate, and its policies are not listed."""
    sides = {"egress": explanation.egress, "ingress": explanation.ingress}
    answer: dict[str, object] = {
        **summary(explanation),
        **{
            name: {"allowed_by": side.allowed_by, "rule": side.rule} if side.isolated_by else None for name, side in sides.items()
        },
    }
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)


def summary(explanation: Explanation) -> dict[str, str | None]:
    """What every JSON answer begins with."""
    direction = explanation.direction
    return {
        "verdict": verdict_word(explanation),
        "direction": None if direction is None else direction.name.lower(),
        "policy": explanation.policy,
        "reason": explanation.reason.label,
    }


def verdict_word(explanation: Explanation) -> str:
    """`accept` or `drop`."""
    return "accept" if explanation.verdict is Verdict.ACCEPT else "drop"


def _because(explanation: Explanation) -> str:
    if explanation.direction is None:
        return _BECAUSE[explanation.reason]
    return f"{explanation.direction.name.lower()} is isolated by {explanation.policy} and nothing allows it"


def _side_text(direction: Direction, side: Side) -> str:
    if not side.isolated_by:
        return "not isolated"
    allowed = "no rule allows it"
    if side.allowed_by is not None:
        allowed = f"allowed by {side.allowed_by}, spec.{direction.name.lower()}[{side.rule}]"
    return f"isolated by {', '.join(side.isolated_by)}; {allowed}"


def _side(side: Side) -> dict[str, object]:
    return {"isolated_by": list(side.isolated_by), "allowed_by": side.allowed_by, "rule": side.rule}


def _endpoint(endpoint: Endpoint) -> dict[str, object]:
    return {"address": format_address(endpoint.address), "pod": endpoint.pod, "nodes": list(endpoint.nodes)}
