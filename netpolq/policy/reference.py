"""The reference evaluator: reads every policy for each flow, directly from the objects. Slow and simple.

Tests compare the compiled evaluator with it, so it shares only the model and the selectors with that, and its code follows the text of
the API documentation (`networking.k8s.io/v1 NetworkPolicySpec`). Not for the packet path.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from netpolq.addresses import AddressKey, is_ipv4
from netpolq.enums import Direction, Reason, Verdict
from netpolq.model import IPBlock, NetworkPolicy, Peer, Pod, PodPeer, PolicyPort, PolicyRule
from netpolq.policy.evaluator import Explanation, Side
from netpolq.policy.selectors import matches
from netpolq.store import Store


class ReferenceEvaluator:
    """Evaluates flows cluster-wide. The store must not change while the evaluator is in use: build another one after an update."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owners: Mapping[bytes, Pod] = store.address_owners()

    def explain(self, source: AddressKey, destination: AddressKey, protocol: int, port: int) -> Explanation:
        """Evaluate a flow. `protocol`: IANA number; `port`: destination port, 0 unless TCP, UDP or SCTP.

        A pod always reaches itself and is always reached by its own node; both sides still state the result of the policies alone.
        """
        egress = self._side(Direction.EGRESS, pod_at=source, peer=destination, destination=destination, flow=(protocol, port))
        ingress = self._side(Direction.INGRESS, pod_at=destination, peer=source, destination=destination, flow=(protocol, port))
        destination_pod = self._owners.get(destination)
        if source == destination:
            verdict, reason = Verdict.ACCEPT, Reason.SAME_ADDRESS
        elif destination_pod is not None and source in self._store.node_addresses(destination_pod):
            verdict, reason = Verdict.ACCEPT, Reason.OWN_NODE
        elif egress.denies or ingress.denies:
            verdict, reason = Verdict.DROP, Reason.DENIED
        elif egress.isolated_by or ingress.isolated_by:
            verdict, reason = Verdict.ACCEPT, Reason.ALLOWED
        else:
            verdict, reason = Verdict.ACCEPT, Reason.NOT_ISOLATED
        return Explanation(verdict=verdict, reason=reason, egress=egress, ingress=ingress)

    def _side(
        self, direction: Direction, *, pod_at: AddressKey, peer: AddressKey, destination: AddressKey, flow: tuple[int, int]
    ) -> Side:
        """Evaluate one direction at the pod that owns `pod_at`; an address that no pod owns is never isolated."""
        pod = self._owners.get(pod_at)
        if pod is None:
            return Side()
        isolating = self.isolating(direction, pod)
        isolated_by = tuple(f"{policy.namespace}/{policy.name}" for policy in isolating)
        for policy in isolating:
            for index, rule in enumerate(policy.rules(direction)):
                if self.peers_match(policy, rule, peer) and self.ports_match(rule, destination, *flow):
                    return Side(isolated_by=isolated_by, allowed_by=f"{policy.namespace}/{policy.name}", rule=index)
        return Side(isolated_by=isolated_by)

    def isolating(self, direction: Direction, pod: Pod) -> list[NetworkPolicy]:
        """The policies that isolate a pod in a direction, in order of name."""
        return [
            policy for policy in self._store.policies_of(pod.namespace, direction) if matches(policy.pod_selector, pod.labels)
        ]

    def owner(self, address: AddressKey) -> Pod | None:
        """The pod that owns an address."""
        return self._owners.get(address)

    def peers_match(self, policy: NetworkPolicy, rule: PolicyRule, address: AddressKey) -> bool:
        """Whether a rule matches the peer at an address.

        Source: `NetworkPolicyIngressRule.from`, `NetworkPolicyEgressRule.to`: peers are alternatives; none given means all.
        """
        return rule.peers is None or any(self.peer_matches(policy, peer, address) for peer in rule.peers)

    def peer_matches(self, policy: NetworkPolicy, peer: Peer, address: AddressKey) -> bool:
        """Whether a peer of a policy matches an address."""
        match peer:
            case IPBlock():
                ip = IPv4Address(address[12:]) if is_ipv4(address) else IPv6Address(address)
                return ip in peer.cidr and not any(ip in excepted for excepted in peer.except_)
            case PodPeer():
                pod = self._owners.get(address)
                if pod is None:
                    return False
                if peer.namespace_selector is None:
                    in_namespace = pod.namespace == policy.namespace
                else:
                    in_namespace = matches(peer.namespace_selector, self._store.namespace_labels(pod.namespace))
                return in_namespace and matches(peer.pod_selector, pod.labels)

    def ports_match(self, rule: PolicyRule, destination: AddressKey, protocol: int, port: int) -> bool:
        """Whether a rule matches a port.

        Source: `NetworkPolicyIngressRule.ports`: entries are alternatives; none given means every port of every protocol.
        """
        return rule.ports is None or any(self.port_matches(entry, destination, protocol, port) for entry in rule.ports)

    def port_matches(self, entry: PolicyPort, destination: AddressKey, protocol: int, port: int) -> bool:
        """Whether an entry of a rule's ports matches a port.

        Source: `NetworkPolicyPort`. A name is looked up among the destination pod's ports, for egress too.
        """
        if entry.protocol != protocol:
            return False
        match entry.port:
            case None:
                return True
            case int(first):
                return first <= port <= (first if entry.end_port is None else entry.end_port)
            case name:
                pod = self._owners.get(destination)
                return pod is not None and (name, protocol, port) in pod.named_ports
