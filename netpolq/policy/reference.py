"""The reference evaluator: reads every policy for each flow, directly from the objects. Slow and simple.

Tests compare the compiled evaluator with it, so it shares only the model and the selectors with that, and its code follows the text of
the API documentation (`networking.k8s.io/v1 NetworkPolicySpec`, `policy.networking.k8s.io ClusterNetworkPolicySpec`). Not for the packet
path.
"""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from netpolq.addresses import AddressKey, is_ipv4
from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Action, DenyWith, Direction, Enforcement, Reason, Tier
from netpolq.model import (
    ClusterNetworkPolicy,
    ClusterRule,
    DomainPeer,
    IPBlock,
    NetworkPolicy,
    NodePeer,
    Peer,
    Pod,
    PodPeer,
    PolicyPort,
    PolicyRule,
    qualified_name,
)
from netpolq.policy import domain_names
from netpolq.policy.evaluator import Explanation, Side
from netpolq.policy.selectors import matches
from netpolq.store import Store


class ReferenceEvaluator:
    """Evaluates flows cluster-wide. The store must not change while the evaluator is in use: build another one after an update."""

    def __init__(
        self,
        store: Store,
        *,
        deny_with: DenyWith = DenyWith.DROP,
        enforcement: Enforcement = Enforcement.ENFORCE,
        with_audit: bool = False,
    ) -> None:
        """`deny_with`, `enforcement`: what a denial does, and whether policies are enforced, where no annotation says. `with_audit`: the
        policies in audit count as if they were enforced; else not at all.
        """
        self._store = store
        self._enforcement = enforcement
        self._with_audit = with_audit
        self._deny_with = deny_with
        self._owners: Mapping[bytes, Pod] = store.address_owners()

    def explain(
        self, source: AddressKey, destination: AddressKey, protocol: int, port: int, *, via_service: bool = False
    ) -> Explanation:
        """Evaluate a flow; see `Evaluator`.

        A pod always reaches its own address and is always reached by its own node; both sides still state the result of the policies.
        """
        egress = self._side(Direction.EGRESS, source, destination, destination, (protocol, port))
        ingress = self._side(Direction.INGRESS, destination, source, destination, (protocol, port))
        if source == destination:
            return Explanation.of_own(egress, ingress, via_service=via_service)
        destination_pod = self._owners.get(destination)
        is_own_node = destination_pod is not None and source in self._store.node_addresses(destination_pod)
        return Explanation.of(egress, ingress, Reason.OWN_NODE if is_own_node else None)

    def _side(
        self, direction: Direction, endpoint: AddressKey, peer: AddressKey, destination: AddressKey, service: tuple[int, int]
    ) -> Side:
        """Evaluate one direction at the pod that owns an address; no policy selects an address that no pod owns.

        `service`: protocol and port at the destination. The tiers are evaluated in their order; PASS goes to the next one.
        """
        pod = self._owners.get(endpoint)
        if pod is None:
            return Side()
        isolating = self.isolating(direction, pod)
        isolated_by = tuple(qualified_name(policy.namespace, policy.name) for policy in isolating)
        passes: list[RuleDecision] = []
        for tier in Tier:
            for decision, namespace, rule in self.rules(tier, direction, pod):
                if self._peers_match(namespace, rule, peer) and self.ports_match(rule, destination, *service):
                    if decision.action is Action.PASS:
                        passes.append(decision)
                        break
                    return Side(isolated_by=isolated_by, decision=decision, passes=tuple(passes))
            else:
                if tier is Tier.NETWORK_POLICY and isolated_by:
                    isolation = Isolation(direction, isolated_by, self._is_isolation_rejected(pod, isolating))
                    return Side(isolated_by=isolated_by, decision=isolation, passes=tuple(passes))
        return Side(isolated_by=isolated_by, passes=tuple(passes))

    def rules(
        self, tier: Tier, direction: Direction, pod: Pod
    ) -> Iterator[tuple[RuleDecision, str, PolicyRule]] | Iterator[tuple[RuleDecision, str, ClusterRule]]:
        """The rules of a tier for a pod in the order of their evaluation, each with its decision and the namespace of its policy."""
        return self._network_rules(direction, pod) if tier is Tier.NETWORK_POLICY else self._cluster_rules(tier, direction, pod)

    def _network_rules(self, direction: Direction, pod: Pod) -> Iterator[tuple[RuleDecision, str, PolicyRule]]:
        """Those of the NetworkPolicies that isolate the pod."""
        for policy in self.isolating(direction, pod):
            for position, rule in enumerate(policy.rules(direction)):
                name = qualified_name(policy.namespace, policy.name)
                yield RuleDecision(direction, Tier.NETWORK_POLICY, name, position, Action.ACCEPT), policy.namespace, rule

    def _cluster_rules(self, tier: Tier, direction: Direction, pod: Pod) -> Iterator[tuple[RuleDecision, str, ClusterRule]]:
        """Those of the cluster-wide policies that select the pod."""
        for policy in self._store.cluster_policies_of(tier):
            if self._counts(policy) and self._peer_matches_pod("", policy.subject, pod):
                answer = (policy.deny_with or self._deny_with) is DenyWith.REJECT
                for position, rule in enumerate(policy.rules(direction)):
                    rejected = answer and rule.action is Action.DENY
                    decision = RuleDecision(direction, tier, policy.qualified_name, position, rule.action, rule.name, rejected)
                    yield decision, "", rule

    def _is_isolation_rejected(self, pod: Pod, isolating: list[NetworkPolicy]) -> bool:
        """Whether isolation is answered: by the annotations of the policies, where drop wins, then of the namespace, then the default."""
        said = {policy.deny_with for policy in isolating} - {None}
        if said:
            return said == {DenyWith.REJECT}
        return (self._store.namespace_deny_with(pod.namespace) or self._deny_with) is DenyWith.REJECT

    def isolating(self, direction: Direction, pod: Pod) -> list[NetworkPolicy]:
        """The policies that isolate a pod in a direction, in order of name."""
        return [
            policy
            for policy in self._store.policies_of(pod.namespace, direction)
            if matches(policy.pod_selector, pod.labels) and self._counts(policy)
        ]

    def _counts(self, policy: NetworkPolicy | ClusterNetworkPolicy) -> bool:
        return self._with_audit or not self._store.is_in_audit(policy, self._enforcement)

    def owner(self, address: AddressKey) -> Pod | None:
        """The pod that owns an address."""
        return self._owners.get(address)

    def peers_match(self, policy: NetworkPolicy, rule: PolicyRule, address: AddressKey) -> bool:
        """Whether a rule of a NetworkPolicy matches the peer at an address.

        Source: `NetworkPolicyIngressRule.from`, `NetworkPolicyEgressRule.to`: peers are alternatives; none given means all.
        """
        return self._peers_match(policy.namespace, rule, address)

    def _peers_match(self, namespace: str, rule: PolicyRule | ClusterRule, address: AddressKey) -> bool:
        return rule.peers is None or any(self._peer_matches(namespace, peer, address) for peer in rule.peers)

    def _peer_matches(self, namespace: str, peer: Peer, address: AddressKey) -> bool:
        match peer:
            case IPBlock():
                ip = IPv4Address(address[12:]) if is_ipv4(address) else IPv6Address(address)
                return ip in peer.cidr and not any(ip in excepted for excepted in peer.except_)
            case NodePeer():
                return any(matches(peer.selector, node.labels) for node in self._store.nodes_with_address(address))
            case DomainPeer():
                return any(domain_names.matches(peer.pattern, name) for name in self._store.names.get(address, ()))
            case PodPeer():
                pod = self._owners.get(address)
                return pod is not None and self._peer_matches_pod(namespace, peer, pod)

    def _peer_matches_pod(self, namespace: str, peer: PodPeer, pod: Pod) -> bool:
        """Whether a peer matches a pod. `namespace`: of the policy, which counts if the peer has no namespace selector."""
        if peer.namespace_selector is None:
            in_namespace = pod.namespace == namespace
        else:
            in_namespace = matches(peer.namespace_selector, self._store.namespace_labels(pod.namespace))
        return in_namespace and matches(peer.pod_selector, pod.labels)

    def ports_match(self, rule: PolicyRule | ClusterRule, destination: AddressKey, protocol: int, port: int) -> bool:
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
