"""Policies of the model as manifests in YAML. What the sources decode from such a manifest is the same policy, if it was read without
a problem. Annotations and labels that the model does not have are missing.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

from netpolq.enums import Action, Direction, Protocol, SelectorOperator, Tier
from netpolq.model import (
    ClusterNetworkPolicy,
    ClusterRule,
    DomainPeer,
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    NodePeer,
    Peer,
    PodPeer,
    PolicyPort,
    PolicyRule,
)
from netpolq.recommendation.yaml_writer import Value, document
from netpolq.sources.decode.annotations import DENY_WITH_ANNOTATION, ENFORCEMENT_ANNOTATION
from netpolq.sources.decode.kinds import VERSIONS

_PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_ORDER = (Direction.INGRESS, Direction.EGRESS)
_TIERS = {Tier.ADMIN: "Admin", Tier.BASELINE: "Baseline"}
_MAX_IN_PEER = 25
"""Networks or domain names of one peer. Source: the CRDs of policy.networking.k8s.io."""


def manifest_text(policy: NetworkPolicy | ClusterNetworkPolicy, comments: Sequence[str] = ()) -> str:
    """The manifest of a policy. `comments`: in front of it."""
    fields = network_policy(policy) if isinstance(policy, NetworkPolicy) else cluster_policy(policy)
    return document(fields, comments)


def network_policy(policy: NetworkPolicy) -> Mapping[str, Value]:
    """A NetworkPolicy with the fields of the API."""
    directions = [direction for direction in _ORDER if direction in policy.policy_types]
    spec: dict[str, Value] = {
        "podSelector": selector_fields(policy.pod_selector),
        "policyTypes": [direction.api_name for direction in directions],
    }
    for direction in _ORDER:
        if direction in directions or policy.rules(direction):  # rules of a direction that is no type have no effect
            spec[direction.name.lower()] = [_network_rule(rule, direction) for rule in policy.rules(direction)]
    metadata = {"name": policy.name, "namespace": policy.namespace, **_annotations(policy)}
    return {"apiVersion": VERSIONS["NetworkPolicy"][0], "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def cluster_policy(policy: ClusterNetworkPolicy) -> Mapping[str, Value]:
    """A cluster-wide policy with the fields of the newest version of its kind."""
    is_new = policy.kind == "ClusterNetworkPolicy"
    spec: dict[str, Value] = {}
    if is_new:
        spec["tier"] = _TIERS[policy.tier]
    if policy.kind != "BaselineAdminNetworkPolicy":
        spec["priority"] = policy.priority
    spec["subject"] = _pods(policy.subject)
    for direction in _ORDER:
        if rules := policy.rules(direction):
            spec[direction.name.lower()] = [_cluster_rule(rule, direction, is_new=is_new) for rule in rules]
    metadata = {"name": policy.name, **_annotations(policy)}
    return {"apiVersion": VERSIONS[policy.kind][0], "kind": policy.kind, "metadata": metadata, "spec": spec}


def selector_fields(selector: LabelSelector) -> Mapping[str, Value]:
    """A label selector with the fields of the API."""
    labels: dict[str, Value] = {}
    expressions: list[Value] = []
    for key, operator, values in selector.requirements:
        if operator is SelectorOperator.IN and len(values) == 1 and key not in labels:
            labels[key] = values[0]
        else:
            expressions.append({"key": key, "operator": operator.value, **({"values": list(values)} if values else {})})
    return {**({"matchLabels": labels} if labels else {}), **({"matchExpressions": expressions} if expressions else {})}


def _annotations(policy: NetworkPolicy | ClusterNetworkPolicy) -> Mapping[str, Value]:
    given = {DENY_WITH_ANNOTATION: policy.deny_with, ENFORCEMENT_ANNOTATION: policy.enforcement}
    texts = {name: value.value for name, value in given.items() if value is not None}
    return {"annotations": texts} if texts else {}


def _network_rule(rule: PolicyRule, direction: Direction) -> Mapping[str, Value]:
    peers = {} if rule.peers is None else {_PEERS[direction]: [_network_peer(peer) for peer in rule.peers]}
    return {**peers, **({} if rule.ports is None else {"ports": [_port(port) for port in rule.ports]})}


def _network_peer(peer: PodPeer | IPBlock) -> Mapping[str, Value]:
    match peer:
        case IPBlock(cidr, excepted):
            without = {"except": list(map(str, excepted))} if excepted else {}
            return {"ipBlock": {"cidr": str(cidr), **without}}
        case PodPeer(None, pods):
            return {"podSelector": selector_fields(pods)}
        case PodPeer(namespaces, pods):
            of_pods = {"podSelector": selector_fields(pods)} if pods.requirements else {}
            return {"namespaceSelector": selector_fields(namespaces or LabelSelector()), **of_pods}


def _port(port: PolicyPort) -> Mapping[str, Value]:
    number = {} if port.port is None else {"port": port.port}
    return {"protocol": port.protocol.name, **number, **({} if port.end_port is None else {"endPort": port.end_port})}


def _cluster_rule(rule: ClusterRule, direction: Direction, *, is_new: bool) -> Mapping[str, Value]:
    action = "Allow" if rule.action is Action.ACCEPT and not is_new else rule.action.name.title()
    fields: dict[str, Value] = {**({"name": rule.name} if rule.name else {}), "action": action}
    if rule.peers is not None:
        fields[_PEERS[direction]] = _cluster_peers(rule.peers)
    if rule.ports is not None:
        fields["protocols" if is_new else "ports"] = _cluster_ports(rule.ports, is_new=is_new)
    return fields


def _pods(peer: PodPeer) -> Mapping[str, Value]:
    namespaces = selector_fields(peer.namespace_selector or LabelSelector())
    if not peer.pod_selector.requirements:
        return {"namespaces": namespaces}
    return {"pods": {"namespaceSelector": namespaces, "podSelector": selector_fields(peer.pod_selector)}}


def _cluster_peers(peers: Sequence[Peer]) -> list[Value]:
    """Peers; consecutive networks, and consecutive domain names, are one."""
    found: list[Value] = []
    group: list[str] = []
    before = ""
    for peer in peers:
        match peer:
            case PodPeer():
                found.append(_pods(peer))
                before = ""
                continue
            case NodePeer(selector):
                found.append({"nodes": selector_fields(selector)})
                before = ""
                continue
            case IPBlock(cidr):
                name, text = "networks", str(cidr)
            case DomainPeer(pattern):
                name, text = "domainNames", pattern
            case _:
                assert_never(peer)
        if name != before or len(group) == _MAX_IN_PEER or text in group:
            group = []
            found.append({name: group})
        group.append(text)
        before = name
    return found


def _cluster_ports(ports: Sequence[PolicyPort], *, is_new: bool) -> list[Value]:
    """Ports; a named port, which has an entry of the model for each protocol, is one."""
    found: list[Value] = []
    for place, port in enumerate(ports):
        if isinstance(port.port, str):
            if port.protocol is next(iter(Protocol)) or ports[max(place - 1, 0)].port != port.port:
                found.append({"destinationNamedPort" if is_new else "namedPort": port.port})
        else:
            found.append(_number_of_new(port) if is_new else _number_of_old(port))
    return found


def _number_of_new(port: PolicyPort) -> Mapping[str, Value]:
    """Source: `ClusterNetworkPolicyProtocol` of v1beta1."""
    if port.port is None:
        return {port.protocol.name.lower(): {}}
    number = {"number": port.port} if port.end_port is None else {"range": {"start": port.port, "end": port.end_port}}
    return {port.protocol.name.lower(): {"destinationPort": number}}


def _number_of_old(port: PolicyPort) -> Mapping[str, Value]:
    """Source: `AdminNetworkPolicyPort` of v1alpha1."""
    if port.end_port is None:
        return {"portNumber": {"protocol": port.protocol.name, "port": port.port or 0}}
    return {"portRange": {"protocol": port.protocol.name, "start": port.port or 0, "end": port.end_port}}
