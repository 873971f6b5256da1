"""Store → image: which rule decides for whom. Pure; the result depends only on the objects in the store.

Each peer selector of a policy in use gets a number; a pod's identity is the list of numbers that match it, so a rule names selectors,
never pods, and a pod that comes or goes changes one address and no program.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from netpolq.enums import Action, Direction, Tier
from netpolq.model import IPBlock, LabelSelector, NetworkPolicy, Pod, PodPeer
from netpolq.policy.port_table import Candidate, build_port_table
from netpolq.policy.selectors import matches
from netpolq.snapshot.image import (
    AddressRange,
    Block,
    Endpoint,
    Identity,
    Image,
    Program,
    Rule,
    TierProgram,
)
from netpolq.store import Store

PolicyNames = tuple[tuple[str, str], ...]
"""Keys of policies (namespace, name), sorted."""


class PeerSelector(NamedTuple):
    """A `PodPeer` with its scope spelled out: the policy's namespace, or whatever the namespace selector selects."""

    namespace: str
    namespace_selector: LabelSelector
    pod_selector: LabelSelector


def compile_image(store: Store, *, is_local: Callable[[Pod], bool], with_nodes: bool, with_pod_names: bool = False) -> Image:
    """Compile everything that concerns the isolated pods for which `is_local` holds.

    `with_nodes`: also store the node addresses of every pod, which an evaluation without a kernel needs. `with_pod_names`: also store
    who owns each address, which the log of packets tells.
    """
    owners = store.address_owners()
    isolating = _Isolation(store)
    local = {address: isolating.of(pod) for address, pod in owners.items() if is_local(pod)}
    local = {address: sides for address, sides in local.items() if any(sides)}
    programs = _Programs(
        store, {(direction, names) for sides in local.values() for direction, names in zip(Direction, sides, strict=True)}
    )
    identities, addresses = _identify(store, owners, programs)
    nodes, node_of = _nodes(store, owners) if with_nodes else ((), {})
    return Image(
        rules=programs.rules,
        selectors=tuple(programs.selectors),
        identities=identities,
        addresses=addresses,
        endpoints={
            address: Endpoint(*(programs.program(direction, names) for direction, names in zip(Direction, sides, strict=True)))
            for address, sides in local.items()
        },
        nodes=nodes,
        node_of=node_of,
        pod_names={address: f"{pod.namespace}/{pod.name}" for address, pod in owners.items()} if with_pod_names else {},
    )


class _Isolation:
    """Which policies isolate a pod, per direction. Pods with equal labels share the answer."""

    def __init__(self, store: Store) -> None:
        self._by_namespace: dict[str, list[tuple[tuple[str, str], NetworkPolicy]]] = {}
        for key in sorted(store.policies):
            self._by_namespace.setdefault(key[0], []).append((key, store.policies[key]))
        self._known: dict[tuple[str, frozenset[tuple[str, str]]], tuple[PolicyNames, PolicyNames]] = {}

    def of(self, pod: Pod) -> tuple[PolicyNames, PolicyNames]:
        """Names of the policies that isolate a pod for egress and for ingress (the order of `Direction`)."""
        group = pod.namespace, frozenset(pod.labels.items())
        sides = self._known.get(group)
        if sides is None:
            selecting = [
                (key, policy)
                for key, policy in self._by_namespace.get(pod.namespace, ())
                if matches(policy.pod_selector, pod.labels)
            ]
            egress, ingress = (
                tuple(key for key, policy in selecting if direction in policy.policy_types) for direction in Direction
            )
            sides = self._known[group] = egress, ingress
        return sides


class _Programs:
    """The programs for some sets of policies, with rules, selectors and port names numbered over all of them."""

    def __init__(self, store: Store, wanted: Iterable[tuple[Direction, PolicyNames]]) -> None:
        self._store = store
        pairs = sorted({(name, direction) for direction, names in wanted for name in names})
        rules: list[Rule] = []
        selectors: set[PeerSelector] = set()
        self.port_names: set[str] = set()
        self._first_rule: dict[tuple[tuple[str, str], Direction], int] = {}
        for name, direction in pairs:
            policy = store.policies[name]
            self._first_rule[name, direction] = len(rules)
            for position, rule in enumerate(policy.rules(direction)):
                rules.append(Rule(Tier.NETWORK_POLICY, "/".join(name), direction, position, Action.ACCEPT))
                selectors.update(_scoped(policy, peer) for peer in rule.peers or () if isinstance(peer, PodPeer))
                self.port_names.update(port.port for port in rule.ports or () if isinstance(port.port, str))
        self.rules = tuple(rules)
        self.selectors = {selector: number for number, selector in enumerate(sorted(selectors))}
        self._programs: dict[tuple[Direction, PolicyNames], Program] = {}

    def program(self, direction: Direction, names: PolicyNames) -> Program | None:
        """The program of a pod that these policies isolate; None for no policies."""
        if not names:
            return None
        program = self._programs.get((direction, names))
        if program is None:
            program = self._programs[direction, names] = (self._network_policy_tier(direction, names),)
        return program

    def _network_policy_tier(self, direction: Direction, names: PolicyNames) -> TierProgram:
        any_peer: list[Candidate] = []
        by_selector: dict[int, list[Candidate]] = {}
        by_block: dict[Block, list[Candidate]] = {}
        for name in names:
            policy = self._store.policies[name]
            for number, rule in enumerate(policy.rules(direction), self._first_rule[name, direction]):
                candidate = Candidate(number, rule.ports)
                if rule.peers is None:
                    any_peer.append(candidate)
                for peer in rule.peers or ():
                    if isinstance(peer, PodPeer):
                        by_selector.setdefault(self.selectors[_scoped(policy, peer)], []).append(candidate)
                    else:
                        by_block.setdefault(_block(peer), []).append(candidate)
        return TierProgram(
            tier=Tier.NETWORK_POLICY,
            isolated_by=tuple("/".join(name) for name in names),
            any_peer=build_port_table(any_peer) if any_peer else None,
            selectors=tuple((number, build_port_table(by_selector[number])) for number in sorted(by_selector)),
            blocks=tuple((block, build_port_table(by_block[block])) for block in sorted(by_block)),
        )


def _scoped(policy: NetworkPolicy, peer: PodPeer) -> PeerSelector:
    if peer.namespace_selector is None:
        return PeerSelector(policy.namespace, LabelSelector(), peer.pod_selector)
    return PeerSelector("", peer.namespace_selector, peer.pod_selector)


def _block(peer: IPBlock) -> Block:
    ranges = sorted((int(network[0]), int(network[-1])) for network in peer.except_)
    disjoint: list[AddressRange] = []
    for low, high in ranges:
        if disjoint and low <= disjoint[-1].high + 1:
            disjoint[-1] = AddressRange(disjoint[-1].low, max(high, disjoint[-1].high))
        else:
            disjoint.append(AddressRange(low, high))
    return Block(peer.cidr.version, peer.cidr.prefixlen, int(peer.cidr.network_address), tuple(disjoint))


def _identify(store: Store, owners: Mapping[bytes, Pod], programs: _Programs) -> tuple[tuple[Identity, ...], dict[bytes, int]]:
    """Identities in sorted order, and the identity of each address that has one worth storing."""
    in_namespace: dict[str, list[tuple[int, LabelSelector]]] = {}
    known: dict[tuple[object, ...], Identity] = {}
    contents: dict[bytes, Identity] = {}
    for address, pod in owners.items():
        ports = tuple(sorted({port for port in pod.named_ports if port.name in programs.port_names}))
        group = pod.namespace, frozenset(pod.labels.items()), ports
        identity = known.get(group)
        if identity is None:
            if pod.namespace not in in_namespace:
                in_namespace[pod.namespace] = _selectors_for(store, pod.namespace, programs.selectors)
            selected = in_namespace[pod.namespace]
            identity = known[group] = Identity(
                tuple(number for number, selector in selected if matches(selector, pod.labels)), ports
            )
        if identity.selectors or identity.named_ports:
            contents[address] = identity
    identities = tuple(sorted(set(contents.values())))
    numbers = {identity: number for number, identity in enumerate(identities)}
    return identities, {address: numbers[identity] for address, identity in contents.items()}


def _selectors_for(store: Store, namespace: str, selectors: Mapping[PeerSelector, int]) -> list[tuple[int, LabelSelector]]:
    """Numbers and pod selectors of the peer selectors whose scope includes a namespace, in order of number."""
    labels = store.namespace_labels(namespace)
    return [
        (number, selector.pod_selector)
        for selector, number in selectors.items()
        if (selector.namespace == namespace if selector.namespace else matches(selector.namespace_selector, labels))
    ]


def _nodes(store: Store, owners: Mapping[bytes, Pod]) -> tuple[tuple[tuple[bytes, ...], ...], dict[bytes, int]]:
    of_node = store.addresses_of_nodes()
    sets = {address: tuple(sorted({*pod.host_ips, *of_node.get(pod.node_name, ())})) for address, pod in owners.items()}
    nodes = tuple(sorted({addresses for addresses in sets.values() if addresses}))
    numbers = {addresses: number for number, addresses in enumerate(nodes)}
    return nodes, {address: numbers[addresses] for address, addresses in sets.items() if addresses}
