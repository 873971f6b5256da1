"""Reasons, as text, why a peer or a list of ports does not match. For peers and ports that are known not to match."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, is_ipv4
from netpolq.enums import Protocol, SelectorOperator
from netpolq.model import IPBlock, LabelSelector, Pod, PodPeer, PolicyPeer, PolicyPort, Requirement
from netpolq.policy.selectors import requirement_holds

MAX_LISTED = 4
"""Maximum number of requirements, values or ports in one line: a policy may have thousands."""

_FAR = 1 << 16
"""Distance, in requirements, of a peer of the wrong kind: a selector for an address without a pod, or a block without the address."""


class PeerMiss(NamedTuple):
    """A peer that does not match. `requirements`: how many requirements of its selectors do not hold."""

    requirements: int
    why: str


def peer_miss(
    policy_namespace: str, peer: PolicyPeer, address: AddressKey, pod: Pod | None, namespace_labels: Mapping[str, str]
) -> PeerMiss:
    """Why a peer of a policy does not match an address. `pod`: the owner, with the labels of its namespace, or None."""
    match peer:
        case IPBlock():
            ip = IPv4Address(address[12:]) if is_ipv4(address) else IPv6Address(address)
            if ip not in peer.cidr:
                return PeerMiss(_FAR, f"peer: {ip} is not in ipBlock {peer.cidr}")
            excepted = next(network for network in peer.except_ if ip in network)
            return PeerMiss(1, f"peer: {ip} is in ipBlock {peer.cidr} and in its except {excepted}")
        case PodPeer():
            if pod is None:
                return PeerMiss(_FAR, f"peer: selectors match pods only, and no pod owns {format_address(address)}")
            return _selector_miss(policy_namespace, peer, pod, namespace_labels)


def _selector_miss(policy_namespace: str, peer: PodPeer, pod: Pod, namespace_labels: Mapping[str, str]) -> PeerMiss:
    reasons = []
    count = 0
    if peer.namespace_selector is None:
        if pod.namespace != policy_namespace:
            count = 1
            reasons.append(f"without namespaceSelector only pods of namespace {policy_namespace} match, not of {pod.namespace}")
    else:
        found = _unmet(peer.namespace_selector, namespace_labels)
        count = len(found)
        reasons += _reasons(f"namespace {pod.namespace}", "namespaceSelector", found, namespace_labels)
    found = _unmet(peer.pod_selector, pod.labels)
    reasons += _reasons(f"pod {pod.namespace}/{pod.name}", "podSelector", found, pod.labels)
    return PeerMiss(count + len(found), f"peer: {'; '.join(reasons)}")


def _unmet(selector: LabelSelector, labels: Mapping[str, str]) -> list[Requirement]:
    return [requirement for requirement in selector.requirements if not requirement_holds(requirement, labels)]


def _reasons(subject: str, selector: str, unmet: Sequence[Requirement], labels: Mapping[str, str]) -> list[str]:
    """Return one reason for each requirement that does not hold, up to `MAX_LISTED`."""
    reasons = []
    for requirement in unmet[:MAX_LISTED]:
        value = labels.get(requirement.key)
        has = f"has {requirement.key}={value}" if value is not None else f"has no label {requirement.key}"
        reasons.append(f"{subject} {has}, {selector} wants {requirement_text(requirement)}")
    return [*reasons, *and_more(unmet, "requirements")]


def requirement_text(requirement: Requirement) -> str:
    """A requirement in words: `app=web`, `tier In (a, b)`, `app Exists`."""
    key, operator, values = requirement
    if operator is SelectorOperator.IN and len(values) == 1:
        return f"{key}={values[0]}"
    if not values:
        return f"{key} {operator}"
    return f"{key} {operator} ({', '.join([*values[:MAX_LISTED], *and_more(values, 'values')])})"


def port_miss(entries: Sequence[PolicyPort], protocol: int, port: int, destination: Pod | None) -> str:
    """Why no entry of a rule's ports is about a port. `destination`: the pod whose port names count, or None."""
    allowed = ", ".join([*map(port_entry_text, entries[:MAX_LISTED]), *and_more(entries, "entries")])
    if protocol not in Protocol.__members__.values():
        return f"protocol: a rule with ports ({allowed}) allows TCP, UDP and SCTP only"
    name = Protocol(protocol).name
    same = [entry for entry in entries if entry.protocol == protocol]
    if not same:
        return f"protocol: {allowed} allowed, not {name}"
    missing = sorted({entry.port for entry in same if isinstance(entry.port, str)})
    has = f"; {_carried(destination, name, missing)}" if missing else ""
    return f"port: {allowed} allowed, not {name} {port}{has}"


def port_entry_text(entry: PolicyPort) -> str:
    """An entry of a rule's ports in words: `TCP 443`, `UDP 5000-5010`, `every TCP port`."""
    if entry.port is None:
        return f"every {entry.protocol.name} port"
    return f"{entry.protocol.name} {entry.port}" + (f"-{entry.end_port}" if entry.end_port is not None else "")


def _carried(pod: Pod | None, protocol: str, names: Sequence[str]) -> str:
    """Describe the ports of a pod for the port names of a rule."""
    if pod is None:
        return "the destination is not a pod, so port names match nothing"
    reasons = []
    for name in names[:MAX_LISTED]:
        numbers = [str(port.port) for port in pod.named_ports if port.name == name and port.protocol.name == protocol]
        reasons.append(f"{name} is {protocol} {', '.join(numbers)}" if numbers else f"has no {protocol} port named {name}")
    return f"pod {pod.namespace}/{pod.name}: {', '.join([*reasons, *and_more(names, 'names')])}"


def and_more(items: Sequence[object], what: str) -> list[str]:
    """How many more items there are than a line lists, as a list of at most one text."""
    return [f"{len(items) - MAX_LISTED} more {what}"] if len(items) > MAX_LISTED else []
