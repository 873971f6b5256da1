"""Recommended policies as manifests: maps with the fields of the API, and comments with the evidence."""

from collections.abc import Mapping
from datetime import UTC, datetime

from netpolq.enums import Direction, SelectorOperator
from netpolq.model import DomainPeer, IPBlock, LabelSelector, PodPeer, PolicyPort, Requirement
from netpolq.recommendation.policies import Policy, Rule, RulePeer, counted, namespace_selector
from netpolq.recommendation.yaml_writer import Commented, Value

AUDIT_ANNOTATION = "policy.netpolq.io/enforcement"
AUDIT = "audit"

NAMES_PRIORITY = 900
"""Near the end of the Admin tier, whose last priority is 1000: policies of operators come first."""

_PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_ORDER = (Direction.INGRESS, Direction.EGRESS)


def objects_of(policy: Policy, *, audit: bool) -> list[Mapping[str, Value]]:
    """Return the NetworkPolicy, and the ClusterNetworkPolicy with its rules by domain names, if it has any."""
    found = [_network_policy(policy, audit=audit)]
    return [*found, _names_policy(policy, audit=audit)] if policy.names else found


def comments_of(policy: Policy) -> list[str]:
    """Return the comments in front of a policy."""
    return [f"{policy.namespace}/{policy.name}", *policy.notes]


def time_text(time_s: float) -> str:
    """Return a time in UTC, to the second."""
    return datetime.fromtimestamp(int(time_s), UTC).isoformat().replace("+00:00", "Z")


def _network_policy(policy: Policy, *, audit: bool) -> Mapping[str, Value]:
    directions = [direction for direction in _ORDER if direction in policy.rules]
    spec: dict[str, Value] = {
        "podSelector": _selector(policy.selector),
        "policyTypes": [direction.api_name for direction in directions],
    }
    for direction in directions:
        rules = [_network_rule(rule, direction) for rule in policy.rules[direction]]
        none_seen = (
            () if rules or (direction is Direction.EGRESS and policy.names) else (f"no {direction.name.lower()} was seen",)
        )
        spec[direction.name.lower()] = Commented(rules, none_seen)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": policy.name, "namespace": policy.namespace, **_annotations(audit=audit)},
        "spec": spec,
    }


def _names_policy(policy: Policy, *, audit: bool) -> Mapping[str, Value]:
    subject = {"namespaceSelector": _selector(namespace_selector(policy.namespace)), "podSelector": _selector(policy.selector)}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        # No namespace has a dot in its name, so the names are unique.
        "metadata": {"name": f"{policy.namespace}.{policy.name}", **_annotations(audit=audit)},
        "spec": {
            "tier": "Admin",
            "priority": NAMES_PRIORITY,
            "subject": {"pods": subject},
            "egress": [_names_rule(rule, number) for number, rule in enumerate(policy.names, 1)],
        },
    }


def _annotations(*, audit: bool) -> Mapping[str, Value]:
    return {"annotations": {AUDIT_ANNOTATION: AUDIT}} if audit else {}


def _network_rule(rule: Rule, direction: Direction) -> Value:
    fields = {_PEERS[direction]: [_peer(peer) for peer in rule.peers], "ports": [_port(port) for port in rule.ports]}
    return Commented(fields, _evidence(rule))


def _names_rule(rule: Rule, number: int) -> Value:
    names = [peer.peer.pattern for peer in rule.peers if isinstance(peer.peer, DomainPeer)]
    fields = {
        "name": f"seen-names-{number}",
        "action": "Accept",
        "to": [{"domainNames": names}],
        "protocols": [_protocol(port) for port in rule.ports],
    }
    return Commented(fields, _evidence(rule))


def _evidence(rule: Rule) -> tuple[str, ...]:
    found = rule.evidence
    title = f"{rule.title}: " if rule.title else ""
    counts = f"{counted(found.connections, 'connection')}, {counted(found.flows, 'flow record')}"
    return (f"{title}{counts}, last seen {time_text(found.last_seen_s)}", f"such as {found.example}", *rule.notes)


def _peer(peer: RulePeer) -> Value:
    note = (peer.note,) if peer.note else ()
    match peer.peer:
        case IPBlock(cidr, excepted):
            block: dict[str, Value] = {"cidr": Commented(str(cidr), beside=peer.note)}
            if excepted:
                block["except"] = [str(network) for network in excepted]
            return {"ipBlock": block}
        case PodPeer(None, pod_selector):
            return Commented({"podSelector": _selector(pod_selector)}, note)
        case PodPeer(selector, pod_selector):
            # An empty map would be one line too many to read: the namespace alone means all of its pods.
            pods = {"podSelector": _selector(pod_selector)} if pod_selector.requirements else {}
            return Commented({"namespaceSelector": _selector(selector or LabelSelector()), **pods}, note)
        case DomainPeer(pattern):
            return {"domainNames": [pattern]}


def _selector(selector: LabelSelector) -> Mapping[str, Value]:
    labels = {key: values[0] for key, operator, values in selector.requirements if operator is SelectorOperator.IN}
    others = [_requirement(one) for one in selector.requirements if one.operator is not SelectorOperator.IN]
    return {**({"matchLabels": labels} if labels else {}), **({"matchExpressions": others} if others else {})}


def _requirement(requirement: Requirement) -> Mapping[str, Value]:
    values = {"values": list(requirement.values)} if requirement.values else {}
    return {"key": requirement.key, "operator": requirement.operator.value, **values}


def _port(port: PolicyPort) -> Mapping[str, Value]:
    fields: dict[str, Value] = {"protocol": port.protocol.name}
    if port.port is not None:
        fields["port"] = port.port
    if port.end_port is not None:
        fields["endPort"] = port.end_port
    return fields


def _protocol(port: PolicyPort) -> Mapping[str, Value]:
    """Source: `ClusterNetworkPolicyProtocol` of v1alpha2."""
    if port.end_port is None:
        return {port.protocol.name.lower(): {"destinationPort": {"number": port.port}}}
    return {port.protocol.name.lower(): {"destinationPort": {"range": {"start": port.port, "end": port.end_port}}}}
