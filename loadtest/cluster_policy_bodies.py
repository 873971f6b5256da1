"""Cluster-wide policies that select the server of a load test and decide nothing for its load: rules to evaluate, with the same verdicts.

Rules with all actions name all pods, namespaces of a team, pods of a tier, or both. What they accept and deny is not in the load: other
protocols, and ports below 1024. Rules that match the load pass it on to the NetworkPolicies.
"""

from collections.abc import Callable, Iterable, Iterator

from loadtest.testbed import manifests
from loadtest.testbed.manifests import Body

POLICIES = 50
RULES = 25
"""The API's limit for one direction of a policy."""

_FIRST_PORT = 1024
_TIERS = ("frontend", "backend", "data")
_TEAMS = ("payments", "search", "catalogue", "identity", "logistics")
_ACTIONS = ("Accept", "Deny", "Pass")
_PROTOCOLS = ("udp", "tcp", "sctp")
_BASELINE_EVERY = 5
"""The fewer policies are of the Baseline tier, the more rules are evaluated: a NetworkPolicy that isolates comes before it."""


def with_cluster_policies(bodies: Callable[[], Iterable[Body]]) -> Callable[[], Iterator[Body]]:
    """The same objects and `POLICIES` cluster-wide policies of `RULES` ingress rules."""

    def both() -> Iterator[Body]:
        yield from bodies()
        for number in range(POLICIES):
            yield manifests.cluster_policy(
                f"cluster-wide-{number:02}",
                tier="Admin" if number % _BASELINE_EVERY else "Baseline",
                priority=number,
                subject={"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "server"}}}},
                ingress=[_rule(number * RULES + rule) for rule in range(RULES)],
            )

    return both


def _rule(number: int) -> Body:
    protocol = _PROTOCOLS[number % len(_PROTOCOLS)]
    action = _ACTIONS[number // len(_PROTOCOLS) % len(_ACTIONS)]
    first = _FIRST_PORT + 50 * number % 60_000 if action == "Pass" else 1 + number % (_FIRST_PORT - 10)
    port = {"range": {"start": first, "end": first + number % 9 + 1}} if number % 2 else {"number": first}
    return {
        "name": f"rule-{number}",
        "action": action,
        "from": [_peer(number)],
        "protocols": [{protocol: {"destinationPort": port}}],
    }


def _peer(number: int) -> Body:
    team = {"matchLabels": {"team": _TEAMS[number % len(_TEAMS)]}}
    tier = {"matchLabels": {"tier": _TIERS[number // len(_TEAMS) % len(_TIERS)]}}
    match number % 4:
        case 0:
            return {"namespaces": {}}
        case 1:
            return {"namespaces": team}
        case 2:
            return {"pods": {"namespaceSelector": {}, "podSelector": tier}}
        case _:
            return {"pods": {"namespaceSelector": team, "podSelector": tier}}
