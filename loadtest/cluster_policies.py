"""The cost of cluster-wide policies in a large cluster: from a change to a sealed snapshot, without kernel and root.

`POLICIES` policies of `RULES` rules, of both tiers, with all actions and kinds of peers, select pods of many kinds (sets of labels) on
this node. Each kind has a NetworkPolicy of its own besides. All times are medians of the changes of a round, in milliseconds of
CPU time, which other programs on the machine change little.
"""

import argparse
import gc
import json
import multiprocessing
import statistics
import time

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from itertools import count

from loadtest.controlplane import whole
from loadtest.publishing import ControlPlane, update_of
from netpolq.addresses import AddressKey, address_key
from netpolq.enums import Action, Direction, Protocol, SelectorOperator, Tier
from netpolq.model import (
    NAMESPACE_NAME_LABEL,
    ClusterNetworkPolicy,
    ClusterRule,
    IPBlock,
    Labels,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    Node,
    NodePeer,
    Object,
    Peer,
    Pod,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
)
from netpolq.snapshot.layout import Section

POLICIES = 50
RULES = 25
PODS = 100_000
KINDS = 60
CHANGES = 7
"""Of each sort in a round, so that a policy changes about once."""
ROUNDS = 11
_KINDS_PER_NAMESPACE = 10
_PODS_PER_NAMESPACE = 100
_PODS_PER_NODE = 100
_APPS = 8
_PARTS = 3
_TEAMS = 5
_STAGES = ("prod", "test")
_ZONES = 3
_LOCAL_NAMESPACES = -(-KINDS // _KINDS_PER_NAMESPACE)
_LOCAL_NODE = "node-local"
_ACTIONS = (Action.ACCEPT, Action.DENY, Action.PASS)
_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_EVERY = LabelSelector()

Change = Callable[[int], Object]
"""A change by its number: each differs from the one before."""

CHANGES_OF: Mapping[str, Change] = {
    "port_ms": lambda number: _changed(number, lambda rule: rule._replace(ports=(PolicyPort(Protocol.TCP, 20_000 + number),))),
    "peer_ms": lambda number: _changed(
        number, lambda rule: rule._replace(peers=(PodPeer(_EVERY, _having("app", "app-1", _own(number))),))
    ),
    "peers_ms": lambda number: _policy(number, own=_own(number)),
    "subject_ms": lambda number: replace(
        _policy(number), subject=PodPeer(_EVERY, _having("app", f"app-{number // POLICIES % _APPS}"))
    ),
    "priority_ms": lambda number: replace(_policy(number), priority=500 + number),
    "relabel_local_ms": lambda number: _namespace(number % _LOCAL_NAMESPACES, turn=1 + number % (_TEAMS - 1)),
    "relabel_ms": lambda number: _namespace(_LOCAL_NAMESPACES + number, turn=1),
    "relabel_node_ms": lambda number: _node(number, turn=1),
    "pod_ms": lambda number: _local_pod(KINDS + number),
}
"""What changes: one port, one peer, all peers, the subject or the priority of a policy; the labels of a namespace with local pods, of one
without, and of a node; and a local pod of a new kind comes. The new peers are in no other policy."""

POLICY_CHANGES = ("port_ms", "peer_ms", "peers_ms", "subject_ms", "priority_ms")
"""Those of a policy."""


def measure(*, pods: int, kinds: int, changes: int) -> dict[str, float]:
    """Measure in a separate process, so that no other object is in its memory.

    Returns the medians of `CHANGES_OF`, `first_ms`: the first snapshot, and `snapshot_bytes`: its size without the table of addresses.
    """
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_measure, (pods, kinds, changes))


def _measure(pods: int, kinds: int, changes: int) -> dict[str, float]:
    control = ControlPlane(is_local=lambda pod: pod.node_name == _LOCAL_NODE, clock=time.process_time)
    gc.freeze()  # as the supervisor does, here and below
    first_ms = 1e3 * sum(control.event(update_of(cluster(pods, kinds))))
    gc.freeze()
    size = sum(length for section, length in control.section_bytes().items() if section is not Section.ADDRESSES)
    numbers = count()
    found = {"first_ms": first_ms, "snapshot_bytes": float(size)}
    for name, change in CHANGES_OF.items():
        # Another policy each time, so that nothing but this change has happened to it.
        found[name] = statistics.median(1e3 * sum(control.event(update_of([change(next(numbers))]))) for _ in range(changes))
    return found


# --- the cluster ------------------------------------------------------------------------------------------------------------------


def cluster(pods: int, kinds: int) -> Iterator[Object]:
    """All objects. `pods`: local ones included; `kinds`: of local pods, with one pod each."""
    for number in range(-(-max(pods, kinds) // _PODS_PER_NAMESPACE)):
        yield _namespace(number)
    yield from map(_node, range(-(-pods // _PODS_PER_NODE)))
    for index in range(pods - kinds):
        labels = _pod_labels(index % _APPS, index // _APPS % _PARTS, index // _PODS_PER_NAMESPACE)
        yield _pod(f"pod-{index}", index // _PODS_PER_NAMESPACE, labels, _address(10, index), f"node-{index // _PODS_PER_NODE}")
    for kind in range(kinds):
        yield _local_pod(kind)
        yield _own_policy(kind)
    yield from map(_policy, range(POLICIES))


def _node(number: int, *, turn: int = 0) -> Node:
    """A node with two addresses. It is in another zone in each turn."""
    labels = Labels({"zone": f"zone-{(number + turn) % _ZONES}", "pool": f"pool-{number % 10}"})
    return Node(name=f"node-{number}", labels=labels, addresses=(_address(172, number), _address(173, number)))


def _local_pod(kind: int) -> Pod:
    labels = Labels({"kind": f"kind-{kind}", **_pod_labels(kind % _APPS, kind % _PARTS, kind)})
    return _pod(f"local-{kind}", kind // _KINDS_PER_NAMESPACE, labels, _address(11, kind), _LOCAL_NODE)


def _namespace(number: int, *, turn: int = 0) -> Namespace:
    """A namespace. It belongs to another team in each turn."""
    name = _namespace_name(number)
    labels = {"team": f"team-{(number + turn) % _TEAMS}", "stage": _STAGES[number % 2], NAMESPACE_NAME_LABEL: name}
    return Namespace(name=name, labels=Labels(labels))


def _namespace_name(number: int) -> str:
    return f"namespace-{number:04}"


def _address(network: int, number: int) -> AddressKey:
    return address_key(bytes([network, *number.to_bytes(3, "big")]))


def _pod(name: str, namespace: int, labels: Labels, address: AddressKey, node: str) -> Pod:
    return Pod(namespace=_namespace_name(namespace), name=name, labels=labels, ips=(address,), node_name=node)


@cache
def _pod_labels(app: int, part: int, revision: int) -> Labels:
    """Labels of a Deployment's pods. Each Deployment has its own, as in a real cluster."""
    return Labels({"app": f"app-{app}", "part": f"part-{part}", "pod-template-hash": f"{app}-{part}-{revision}"})


def _own_policy(kind: int) -> NetworkPolicy:
    return NetworkPolicy(
        namespace=_namespace_name(kind // _KINDS_PER_NAMESPACE),
        name=f"own-{kind}",
        pod_selector=_having("kind", f"kind-{kind}"),
        policy_types=frozenset({Direction.INGRESS}),
        ingress=(PolicyRule((PodPeer(None, _having("app", f"app-{kind % _APPS}")),), (PolicyPort(Protocol.TCP, 1 + kind),)),),
    )


def _own(number: int) -> str:
    return f"new-{number}"


def _policy(number: int, *, own: str = "") -> ClusterNetworkPolicy:
    """One of the policies, in turn of each tier. `own`: see `_rule`."""
    number %= POLICIES
    first, middle, last = number * RULES, number * RULES + RULES // 2, (number + 1) * RULES
    return ClusterNetworkPolicy(
        name=f"policy-{number}",
        tier=(Tier.ADMIN, Tier.BASELINE)[number % 2],
        priority=number,
        subject=_SUBJECTS[number % len(_SUBJECTS)],
        ingress=tuple(_rule(rule, own, direction=Direction.INGRESS) for rule in range(first, middle)),
        egress=tuple(_rule(rule, own, direction=Direction.EGRESS) for rule in range(middle, last)),
    )


def _changed(number: int, change: Callable[[ClusterRule], ClusterRule]) -> ClusterNetworkPolicy:
    """A policy whose first rule has changed."""
    policy = _policy(number)
    first, *others = policy.ingress
    return replace(policy, ingress=(change(first), *others))


def _rule(number: int, own: str, *, direction: Direction) -> ClusterRule:
    """A rule with one peer. `own`: a value of labels that only this policy names; empty: it shares its peer with others."""
    port = PolicyPort(_PROTOCOLS[number % len(_PROTOCOLS)], 1024 + number, 1024 + number + number % 20)
    return ClusterRule(_ACTIONS[number % len(_ACTIONS)], (_peer(number, own, direction),), None if number % 10 == 0 else (port,))


def _peer(number: int, own: str, direction: Direction) -> Peer:
    team = _having("team", f"team-{number % _TEAMS}", own)
    pods = PodPeer(team, _having("app", f"app-{number % (5 * _APPS)}"))
    match direction:
        case Direction.INGRESS:
            return (PodPeer(team, _EVERY), pods)[number % 2]
        case Direction.EGRESS:
            network = IPv4Network((int(IPv4Address("198.18.0.0")) + 256 * (number % 256), 24))
            nodes = NodePeer(_having("zone", f"zone-{number % _ZONES}", own))
            return (PodPeer(team, _EVERY), pods, IPBlock(network), nodes)[number % 4]


def _having(key: str, *values: str) -> LabelSelector:
    return LabelSelector((Requirement(key, SelectorOperator.IN, tuple(sorted(filter(None, values)))),))


_SUBJECTS = (
    PodPeer(_EVERY, _EVERY),
    PodPeer(_having("team", "team-1", "team-2"), _EVERY),
    PodPeer(_EVERY, _having("app", "app-1", "app-2")),
    PodPeer(_having("stage", "prod"), _having("part", "part-0")),
    PodPeer(_EVERY, LabelSelector((Requirement("kind", SelectorOperator.EXISTS, ()),))),
)


def main() -> None:
    """Measure some rounds and print the median, the least and the most of each value as JSON."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.cluster_policies", description=__doc__)
    parser.add_argument("--pods", type=whole(KINDS), default=PODS, help="pods of the cluster (%(default)s)")
    parser.add_argument("--kinds", type=whole(1), default=KINDS, help="kinds of pods on this node (%(default)s)")
    parser.add_argument("--changes", type=whole(1), default=CHANGES, help="changes of each sort in a round (%(default)s)")
    parser.add_argument("--rounds", type=whole(1), default=ROUNDS, help="rounds, each with a new cluster (%(default)s)")
    arguments = parser.parse_args()
    rounds = [measure(pods=arguments.pods, kinds=arguments.kinds, changes=arguments.changes) for _ in range(arguments.rounds)]
    for name in rounds[0]:
        values = [found[name] for found in rounds]
        print(json.dumps({"value": name, "median": statistics.median(values), "least": min(values), "most": max(values)}))


if __name__ == "__main__":
    main()
