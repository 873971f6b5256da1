"""Near misses as API fields: what to add to a policy, in JSON that can be pasted into its YAML manifest."""

import orjson

from netpolq.enums import Direction, SelectorOperator
from netpolq.model import IPBlock, LabelSelector, PolicyPeer, PolicyPort
from netpolq.policy.near_miss import Addition, NearMiss, smallest

Fields = dict[str, object]


def advice(miss: NearMiss, direction: Direction) -> str:
    """Return in one line what to add, and to which list."""
    what, where = _fields(miss.addition, direction)
    return f"add {orjson.dumps(what).decode()} to {where} of {miss.policy}"


def advice_for(misses: tuple[NearMiss, ...], direction: Direction) -> str:
    """Return the advice with the smallest addition: a connection needs only one policy that allows it."""
    least = smallest(misses)
    return "" if least is None else advice(least, direction)


def as_fields(misses: tuple[NearMiss, ...], direction: Direction) -> list[Fields]:
    """Return near misses for JSON. `add`: the fields to add and the list that they belong to."""
    return [
        {
            "policy": miss.policy,
            "failed": miss.failed.value,
            "rule": miss.rule,
            "why": miss.why,
            "add": dict(zip(("item", "to"), _fields(miss.addition, direction), strict=True)),
        }
        for miss in misses
    ]


def _fields(addition: Addition, direction: Direction) -> tuple[Fields, str]:
    """Return the fields to add, and the list that they belong to."""
    rules = f"spec.{direction.name.lower()}"
    peers = "to" if direction is Direction.EGRESS else "from"
    if addition.rule is None:
        parts: Fields = {}
        if addition.peer is not None:
            parts[peers] = [_peer(addition.peer)]
        if addition.port is not None:
            parts["ports"] = [_port(addition.port)]
        return parts, rules
    if addition.peer is not None:
        return _peer(addition.peer), f"{rules}[{addition.rule}].{peers}"
    return ({} if addition.port is None else _port(addition.port)), f"{rules}[{addition.rule}].ports"


def _peer(peer: PolicyPeer) -> Fields:
    """Source: `NetworkPolicyPeer`."""
    if isinstance(peer, IPBlock):
        return {"ipBlock": {"cidr": str(peer.cidr)}}
    fields: Fields = {"podSelector": _selector(peer.pod_selector)}
    return fields if peer.namespace_selector is None else {"namespaceSelector": _selector(peer.namespace_selector), **fields}


def _selector(selector: LabelSelector) -> Fields:
    """Source: `LabelSelector`. The labels of an addition have one value each."""
    labels = {key: values[0] for key, operator, values in selector.requirements if operator is SelectorOperator.IN}
    return {"matchLabels": labels} if labels else {}


def _port(port: PolicyPort) -> Fields:
    """Source: `NetworkPolicyPort`."""
    return {"protocol": port.protocol.name, **({} if port.port is None else {"port": port.port})}
