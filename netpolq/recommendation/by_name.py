"""Egress rules by domain names, for a ClusterNetworkPolicy of the Admin tier beside the NetworkPolicy of a workload.

NetworkPolicies know no names. A NetworkPolicy that isolates a pod is final, so only the Admin tier, which comes before, can accept more.
"""

import re

from collections.abc import Iterable, Mapping

from netpolq.addresses import AddressKey
from netpolq.model import DomainPeer, domain_name
from netpolq.recommendation.policies import Allowed, Rule, RulePeer, port_entries
from netpolq.recommendation.rule_cover import cover
from netpolq.recommendation.rules import Ports
from netpolq.recommendation.traffic import End, Evidence, OutsideEnd

MAX_ITEMS = 25
"""Rules of a policy, ports of a rule and domain names of a peer. Source: the CRD of ClusterNetworkPolicy."""

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DOMAIN_NAME = re.compile(rf"({_LABEL}\.)+{_LABEL}")
"""Source: the CRD of ClusterNetworkPolicy, v1beta1."""


def rules_by_name(
    peers: Mapping[End, Ports], names: Mapping[AddressKey, Iterable[str]], allowed: Allowed
) -> tuple[tuple[Rule, ...], dict[End, Ports]]:
    """Return rules for the outside ends with names, and the other ends. No rules if a policy could not hold them all."""
    by_name: dict[str, Ports] = {}
    rest = dict(peers)
    for end, ports in peers.items():
        usable = usable_names(names.get(end.address, ())) if isinstance(end, OutsideEnd) and end.address is not None else ()
        for name in usable:
            of_name = by_name.setdefault(name, {})
            for port, evidence in ports.items():
                of_name[port] = of_name.get(port, Evidence()).plus(evidence)
        if usable:
            del rest[end]
    columns = sorted({port for ports in by_name.values() for port in ports})
    rules = []
    for found, together in cover({name: frozenset(by_name[name]) for name in sorted(by_name)}, columns):
        evidence = Evidence()
        for name in found:
            for port in together:
                evidence = evidence.plus(by_name[name][port])
        rules.append(Rule(tuple(RulePeer(DomainPeer(name)) for name in found), port_entries(together), evidence))
    if len(rules) > MAX_ITEMS or any(max(len(rule.peers), len(rule.ports)) > MAX_ITEMS for rule in rules):
        return (), dict(peers)
    allowed.names.update((name, port) for name, ports in by_name.items() for port in ports)
    return tuple(rules), rest


def usable_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that a policy may have, sorted and in one form."""
    return tuple(sorted({name for name in map(domain_name, names) if _DOMAIN_NAME.fullmatch(name) and len(name) <= 253}))
