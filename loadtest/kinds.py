"""The cost of policies that select pods of many kinds: from a changed policy to a sealed snapshot, without kernel and root.

A kind is a set of labels. `POLICIES` policies of `RULES` rules each select all pods, and each kind has one more policy of its own.
"""

import argparse
import json
import statistics

from dataclasses import asdict, dataclass, replace

from loadtest.publishing import ControlPlane, update_of
from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import (
    LabelSelector,
    NetworkPolicy,
    Pod,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
)

POLICIES = 50
RULES = 25
KINDS = (1, 10, 60, 300)
_NAMESPACE = "kinds"


@dataclass(frozen=True, slots=True, kw_only=True)
class KindsCost:
    """What a change of one policy that selects all pods costs. `change_ms`: from the object to the sealed memfd, median of all changes.

    `first_ms`: the first snapshot. `snapshot_bytes`: its size.
    """

    kinds: int
    first_ms: float
    change_ms: float
    snapshot_bytes: int


def measure(kinds: int, changes: int) -> KindsCost:
    """Measure one number of kinds."""
    control = ControlPlane(is_local=lambda _pod: True)
    pods, shared, own = map(_pod, range(kinds)), map(_policy, range(POLICIES)), map(_own_policy, range(kinds))
    first_ms = 1e3 * sum(control.event(update_of([*pods, *shared, *own])))
    durations = []
    for change in range(changes):
        policy = _policy(change % POLICIES)
        first, *others = policy.ingress
        changed = first._replace(ports=(PolicyPort(Protocol.TCP, 10_000 + change),))
        durations.append(1e3 * sum(control.event(update_of([replace(policy, ingress=(changed, *others))]))))
    size = control.publish()
    return KindsCost(kinds=kinds, first_ms=first_ms, change_ms=statistics.median(durations), snapshot_bytes=size)


def _pod(kind: int) -> Pod:
    address: AddressKey = parse_address(f"10.0.{kind // 250}.{kind % 250 + 1}")
    return Pod(namespace=_NAMESPACE, name=f"pod-{kind}", labels={"kind": str(kind)}, ips=(address,))


def _policy(number: int) -> NetworkPolicy:
    rules = tuple(_rule(number * RULES + rule) for rule in range(RULES))
    return _ingress_policy(f"all-{number}", LabelSelector(), rules)


def _own_policy(kind: int) -> NetworkPolicy:
    return _ingress_policy(f"own-{kind}", _selecting("kind", str(kind)), (_rule(kind),))


def _ingress_policy(name: str, selector: LabelSelector, rules: tuple[PolicyRule, ...]) -> NetworkPolicy:
    return NetworkPolicy(
        namespace=_NAMESPACE, name=name, pod_selector=selector, policy_types=frozenset({Direction.INGRESS}), ingress=rules
    )


def _rule(number: int) -> PolicyRule:
    peer = PodPeer(None, _selecting("app", f"app-{number % 200}"))
    return PolicyRule((peer,), (PolicyPort(Protocol.TCP, 1 + number),))


def _selecting(key: str, value: str) -> LabelSelector:
    return LabelSelector((Requirement(key, SelectorOperator.IN, (value,)),))


def main() -> None:
    """Measure all numbers of kinds and print them as JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.kinds", description=__doc__)
    parser.add_argument("--changes", type=int, default=20, help="changed policies of each number of kinds (%(default)s)")
    for kinds in KINDS:
        print(json.dumps(asdict(measure(kinds, parser.parse_args().changes))))


if __name__ == "__main__":
    main()
