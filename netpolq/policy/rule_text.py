"""Rules and selectors of policies in plain words: `from pods app=web in namespace shop to TCP 5432`."""

from collections.abc import Sequence

from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import (
    NAMESPACE_NAME_LABEL,
    ClusterRule,
    DomainPeer,
    IPBlock,
    LabelSelector,
    NodePeer,
    Peer,
    PodPeer,
    PolicyPort,
    PolicyRule,
)
from netpolq.policy.misses import MAX_LISTED, and_more, port_entry_text, requirement_text

_PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_PORTS = {Direction.INGRESS: "to", Direction.EGRESS: "on"}
_ANYWHERE = {Direction.INGRESS: "from everywhere", Direction.EGRESS: "to everywhere"}


def rule_text(rule: PolicyRule | ClusterRule, direction: Direction, namespace: str = "") -> str:
    """What a rule is about. `namespace`: of its policy, empty for a cluster-wide one. Long lists are cut."""
    if rule.peers is not None and not rule.peers:
        return "matches nothing: the rule cannot be used as written"
    peers = (
        _ANYWHERE[direction]
        if rule.peers is None
        else f"{_PEERS[direction]} {_listed(_peer_texts(rule.peers, namespace), 'peers')}"
    )
    ports = "every port" if rule.ports is None else _listed(_port_texts(rule.ports), "ports")
    return f"{peers} {_PORTS[direction]} {ports}"


def selector_text(selector: LabelSelector) -> str:
    """The requirements of a selector; empty for the empty selector."""
    requirements = selector.requirements
    return ", ".join([*map(requirement_text, requirements[:MAX_LISTED]), *and_more(requirements, "requirements")])


def _listed(texts: Sequence[str], what: str) -> str:
    return " or ".join([*texts[:MAX_LISTED], *and_more(texts, what)])


def _peer_texts(peers: Sequence[Peer], namespace: str) -> list[str]:
    return [_peer_text(peer, namespace) for peer in peers]


def _peer_text(peer: Peer, namespace: str) -> str:
    match peer:
        case IPBlock(cidr, excepted):
            without = ", ".join([*map(str, excepted[:MAX_LISTED]), *and_more(excepted, "blocks")])
            return f"{cidr} without {without}" if excepted else str(cidr)
        case NodePeer(selector):
            return f"nodes {selector_text(selector)}" if selector.requirements else "all nodes"
        case DomainPeer(pattern):
            return pattern
        case PodPeer(namespaces, pods):
            named = f"pods {selector_text(pods)}" if pods.requirements else "all pods"
            return f"{named} in {_namespaces_text(namespaces, namespace)}"


def _namespaces_text(selector: LabelSelector | None, namespace: str) -> str:
    if selector is None:
        return f"namespace {namespace}"
    if not selector.requirements:
        return "all namespaces"
    match selector.requirements:
        case ((key, SelectorOperator.IN, (name,)),) if key == NAMESPACE_NAME_LABEL:
            return f"namespace {name}"
        case _:
            return f"namespaces {selector_text(selector)}"


def _port_texts(ports: Sequence[PolicyPort]) -> list[str]:
    """A named port of cluster-wide policies is one of every protocol, so that three entries are one text."""
    named = {port.port for port in ports if isinstance(port.port, str)}
    of_all = {name for name in named if {port.protocol for port in ports if port.port == name} == set(Protocol)}
    texts = (f"port {port.port}" if port.port in of_all else port_entry_text(port) for port in ports)
    return list(dict.fromkeys(texts))
