"""Why the rules of an isolating policy do not allow a flow, and the smallest addition to the policy that would.

For each policy this reports the closest rule: one that fails in one part (its peers, or its ports) before one that fails in both,
then the one whose selectors miss by the fewest requirements, then the first. Read straight from the objects, like the reference evaluator.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from netpolq.addresses import AddressKey, packed_address
from netpolq.controllers import stable_labels
from netpolq.decision import Isolation
from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import (
    NAMESPACE_NAME_LABEL,
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    Pod,
    PodPeer,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    qualified_name,
)
from netpolq.policy.evaluator import Explanation, Side
from netpolq.policy.misses import PeerMiss, peer_miss, port_miss
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store


class Failed(StrEnum):
    """The part of a policy's closest rule that does not match. NO_RULES: the policy has no rule in this direction."""

    PEER = "peer"
    PORT = "port"
    PROTOCOL = "protocol"
    PEER_AND_PORT = "peer-and-port"
    NO_RULES = "no-rules"


class Addition(NamedTuple):
    """The addition that a policy needs. `rule` None: a rule of its own, with the peer and the port (None: every one of them).

    Otherwise one of `peer` and `port`, to the rule with this index.
    """

    rule: int | None
    peer: PolicyPeer | None = None
    port: PolicyPort | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NearMiss:
    """A policy that isolates and does not allow a flow. `rule`: index of the rule that comes closest, None where there is none.

    `why`: the parts that do not match, one line. `addition`: with this the policy allows the flow.
    """

    policy: str
    failed: Failed
    rule: int | None
    why: str
    addition: Addition


@dataclass(frozen=True, slots=True, kw_only=True)
class NearMisses:
    """The near misses of the policies that isolate, by direction, in order of name; empty for a direction that does not deny."""

    egress: tuple[NearMiss, ...] = ()
    ingress: tuple[NearMiss, ...] = ()

    def of(self, direction: Direction) -> tuple[NearMiss, ...]:
        """Those of one direction."""
        return self.egress if direction is Direction.EGRESS else self.ingress


def smallest(misses: tuple[NearMiss, ...]) -> NearMiss | None:
    """The one whose addition is the smallest (an entry of a rule before a whole rule, then the first), or None.

    One policy that allows a flow is enough for its direction.
    """
    return min(misses, key=lambda miss: miss.addition.rule is None, default=None)


class _Flow(NamedTuple):
    """A flow as one direction sees it. `peer`: the address to compare peers with."""

    direction: Direction
    peer: AddressKey
    destination: AddressKey
    protocol: int
    port: int


class _Closest(NamedTuple):
    """A rule, and how far it is from matching. `peer`, `port`: None where that part matches. Ordered by distance."""

    parts: int
    requirements: int
    rule: int
    peer: PeerMiss | None
    port: str | None


class NearMissFinder:
    """Finds near misses in a store, which must not change meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reference = ReferenceEvaluator(store)

    def find(self, explanation: Explanation, source: AddressKey, destination: AddressKey, protocol: int, port: int) -> NearMisses:
        """Near misses of the directions that deny a flow, as an evaluator has explained it."""
        egress = _Flow(Direction.EGRESS, destination, destination, protocol, port)
        ingress = _Flow(Direction.INGRESS, source, destination, protocol, port)
        return NearMisses(
            egress=self._of_side(explanation.egress, source, egress),
            ingress=self._of_side(explanation.ingress, destination, ingress),
        )

    def _of_side(self, side: Side, isolated: AddressKey, flow: _Flow) -> tuple[NearMiss, ...]:
        pod = self._reference.owner(isolated)
        if not isinstance(side.decision, Isolation) or pod is None:
            return ()
        return tuple(self._of_policy(policy, flow) for policy in self._reference.isolating(flow.direction, pod))

    def _of_policy(self, policy: NetworkPolicy, flow: _Flow) -> NearMiss:
        name = qualified_name(policy.namespace, policy.name)
        where = f"spec.{flow.direction.name.lower()}"
        rules = policy.rules(flow.direction)
        if not rules:
            why = f"{where} has no rules, so the policy allows nothing in this direction"
            return NearMiss(policy=name, failed=Failed.NO_RULES, rule=None, why=why, addition=self._rule(policy, flow))
        closest = min((self._distance(policy, index, rule, flow) for index, rule in enumerate(rules)), key=lambda rule: rule[:3])
        where = f"{where}[{closest.rule}]"
        failed, addition = self._addition(policy, rules[closest.rule], closest, flow)
        reasons = [reason for reason in (closest.peer and closest.peer.why, closest.port) if reason]
        return NearMiss(
            policy=name, failed=failed, rule=closest.rule, why=f"{where}: {', and '.join(reasons)}", addition=addition
        )

    def _distance(self, policy: NetworkPolicy, index: int, rule: PolicyRule, flow: _Flow) -> _Closest:
        peer = port = None
        if not self._reference.peers_match(policy, rule, flow.peer):
            owner = self._reference.owner(flow.peer)
            labels = self._store.namespace_labels(owner.namespace) if owner is not None else {}
            peer = min(
                (peer_miss(policy.namespace, peer, flow.peer, owner, labels) for peer in rule.peers or ()),
                key=lambda miss: miss.requirements,
            )
        if not self._reference.ports_match(rule, flow.destination, flow.protocol, flow.port):
            port = port_miss(rule.ports or (), flow.protocol, flow.port, self._reference.owner(flow.destination))
        parts = (peer is not None) + (port is not None)
        return _Closest(parts, peer.requirements if peer is not None else 0, index, peer, port)

    def _addition(self, policy: NetworkPolicy, rule: PolicyRule, closest: _Closest, flow: _Flow) -> tuple[Failed, Addition]:
        if closest.peer is not None and closest.port is not None:
            return Failed.PEER_AND_PORT, self._rule(policy, flow)
        if closest.peer is not None:
            return Failed.PEER, Addition(closest.rule, peer=self._peer(policy, flow.peer))
        port = _port(flow)
        if port is None:  # policies cannot name a port of this protocol, so only a rule without ports allows it
            return Failed.PROTOCOL, self._rule(policy, flow)
        is_about_protocol = any(entry.protocol == flow.protocol for entry in rule.ports or ())
        return (Failed.PORT if is_about_protocol else Failed.PROTOCOL), Addition(closest.rule, port=port)

    def _rule(self, policy: NetworkPolicy, flow: _Flow) -> Addition:
        return Addition(None, self._peer(policy, flow.peer), _port(flow))

    def _peer(self, policy: NetworkPolicy, address: AddressKey) -> PolicyPeer:
        """The narrowest peer that stays right: a pod by all of its labels but those of controllers, anything else by its address."""
        pod = self._reference.owner(address)
        return _block(address) if pod is None else _pod_peer(policy, pod)


def _block(address: AddressKey) -> IPBlock:
    packed = packed_address(address)
    return IPBlock(IPv4Network(packed) if len(packed) == 4 else IPv6Network(packed))


def _pod_peer(policy: NetworkPolicy, pod: Pod) -> PodPeer:
    namespace = None if pod.namespace == policy.namespace else _exactly({NAMESPACE_NAME_LABEL: pod.namespace})
    # Labels of controllers differ in the next revision, and between replicas. Without others, no label would select all pods.
    return PodPeer(namespace, _exactly(dict(stable_labels(pod.labels)) or dict(pod.labels)))


def _exactly(labels: dict[str, str]) -> LabelSelector:
    return LabelSelector(tuple(Requirement(key, SelectorOperator.IN, (value,)) for key, value in sorted(labels.items())))


def _port(flow: _Flow) -> PolicyPort | None:
    """The entry for a flow's port; None where policies cannot name one. Port 0 cannot be named, so there it is every port."""
    if flow.protocol not in Protocol.__members__.values():
        return None
    return PolicyPort(Protocol(flow.protocol), flow.port or None)
