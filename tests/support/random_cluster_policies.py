"""Random bodies of cluster-wide policies, of every kind and version; a few of their rules fail closed."""

import random

from tests.support.cluster_policies import GROUP
from tests.support.random_selectors import (
    LABELS,
    PORT_NAMES,
    PORTS,
    TRANSPORTS,
    V4_BLOCKS,
    V6_BLOCKS,
    Body,
    annotated,
    object_metadata,
    random_namespace_selector,
    random_selector,
)

DOMAIN_NAMES = ("example.com", "WWW.example.com.", "*.example.com", "*.www.example.com", "example.org", "*.example.org")
LEARNED_NAMES = ("example.com", "www.example.com", "a.www.example.com", "example.org", "www.example.org", "other.test")

RULE_NAMES = ("", "allow the proxies", "zwölfte Regel", "a" * 100)


def random_cluster_policy(rng: random.Random, number: int, *, with_unclear_rules: bool = True) -> Body:
    """A policy. `number` makes its name unique among those of its kind, except that of the one BaselineAdminNetworkPolicy.
    `with_unclear_rules`: whether a few rules have a peer of an unknown kind.
    """
    kind, version = rng.choice(
        (
            *[("ClusterNetworkPolicy", "v1alpha2"), ("ClusterNetworkPolicy", "v1beta1")] * 2,
            ("AdminNetworkPolicy", "v1alpha1"),
            ("BaselineAdminNetworkPolicy", "v1alpha1"),
        )
    )
    # Names whose order differs from the order of creation and that are prefixes of one another.
    name = "default" if kind == "BaselineAdminNetworkPolicy" else f"{rng.choice(('c', 'c-0', 'ca', 'z'))}-{number}"
    spec: Body = {"subject": _pods(rng, version)}
    if kind != "BaselineAdminNetworkPolicy":
        spec["priority"] = rng.choice((0, 1, 2, 1000))  # often equal, so that the name decides
    if kind == "ClusterNetworkPolicy":
        spec["tier"] = rng.choice(("Admin", "Baseline"))
    for field in ("ingress", "egress"):
        if rng.random() < 0.7:
            spec[field] = [_rule(rng, kind, version, field, with_unclear_rules) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    metadata = annotated(object_metadata(name, {}))
    body: Body = {"apiVersion": f"{GROUP}/{version}", "kind": kind, "metadata": metadata, "spec": spec}
    return body


def _rule(rng: random.Random, kind: str, version: str, field: str, with_unclear_rules: bool) -> Body:
    actions = {"ClusterNetworkPolicy": ("Accept", "Deny", "Pass", "Pass"), "AdminNetworkPolicy": ("Allow", "Deny", "Pass")}
    action = rng.choice(actions.get(kind, ("Allow", "Deny")))
    rule: Body = {"action": action}
    peers = [_peer(rng, version, field) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    if field == "egress" and action in {"Accept", "Allow"} and kind != "BaselineAdminNetworkPolicy" and rng.random() < 0.6:
        names: Body = {"domainNames": rng.sample(DOMAIN_NAMES, rng.randint(1, 2))}
        peers = rng.choice(([names], [names], [names, *peers]))
    if with_unclear_rules and rng.random() < 0.08:
        peers.append({"domainNames": ["example"]} if rng.random() < 0.5 else {"services": {}})
    rule["to" if field == "egress" else "from"] = peers
    if rng.random() < 0.5:
        rule["name"] = rng.choice(RULE_NAMES)
    if rng.random() < 0.6:
        has_names = all(peer.keys() <= {"namespaces", "pods"} for peer in peers)
        read = _admin_port if version == "v1alpha1" else _protocol
        ports = [read(rng, has_names) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        if version == "v1beta1" and rng.random() < 0.3:
            ports.append({rng.choice(tuple(TRANSPORTS)).lower(): {}})
        rule["ports" if version == "v1alpha1" else "protocols"] = ports
    return rule


def _pods(rng: random.Random, version: str) -> Body:
    if rng.random() < 0.5:
        return {"namespaces": random_namespace_selector(rng)}
    pods: Body = {"podSelector": random_selector(rng, LABELS)}
    if version == "v1alpha1" or rng.random() < 0.7:
        pods["namespaceSelector"] = random_namespace_selector(rng)
    return {"pods": pods}


def _peer(rng: random.Random, version: str, field: str) -> Body:
    match rng.randint(0, 4 if field == "egress" else 2):
        case 3:
            return {"nodes": random_selector(rng, LABELS)}
        case 4:
            return {"networks": _networks(rng, version)}
        case _:
            return _pods(rng, version)


def _networks(rng: random.Random, version: str) -> list[str]:
    blocks = rng.sample(V4_BLOCKS + V6_BLOCKS, rng.randint(1, 3))
    # Not in v1beta1: blocks with host bits.
    return blocks if version == "v1beta1" else [*blocks, *rng.choice(((), ("10.0.0.5/29",), ("fd00::7/125",)))]


def _protocol(rng: random.Random, has_names: bool) -> Body:
    if has_names and rng.random() < 0.3:
        return {"destinationNamedPort": rng.choice(PORT_NAMES)}
    low, high = sorted(rng.sample(PORTS, 2))
    port: Body = {"number": low} if rng.random() < 0.5 else {"range": {"start": low, "end": high}}
    return {rng.choice(tuple(TRANSPORTS)).lower(): {"destinationPort": port}}


def _admin_port(rng: random.Random, has_names: bool) -> Body:
    if has_names and rng.random() < 0.3:
        return {"namedPort": rng.choice(PORT_NAMES)}
    low, high = sorted(rng.sample(PORTS, 2))
    protocol: Body = {} if rng.random() < 0.3 else {"protocol": rng.choice(tuple(TRANSPORTS))}
    if rng.random() < 0.5:
        return {"portNumber": protocol | {"port": low}}
    return {"portRange": protocol | {"start": low, "end": high}}
