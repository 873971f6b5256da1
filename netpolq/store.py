"""The store: the current objects as last reported by the source, the learned names, and what of them changed. No history, no decisions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from netpolq.addresses import AddressKey
from netpolq.enums import DenyWith, Direction, Enforcement, Tier
from netpolq.model import (
    NAMESPACE_NAME_LABEL,
    ClusterNetworkPolicy,
    Namespace,
    NetworkPolicy,
    Node,
    ObjectKey,
    Pod,
    Rejection,
    Update,
    cluster_policy_name,
    domain_name,
)

MAX_FORMER_ADDRESSES = 4096
MAX_FORMER_NAMES = 32


@dataclass(slots=True)
class DirtySet:
    """Possible changes: addresses whose owner, nodes or learned names may be others or have changed; policies; names of namespaces.

    `cluster_policies`: by `ClusterNetworkPolicy.qualified_name`.
    """

    addresses: set[AddressKey] = field(default_factory=set)
    policies: set[tuple[str, str]] = field(default_factory=set)
    cluster_policies: set[str] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.addresses or self.policies or self.cluster_policies or self.namespaces)


class Store:
    """Objects by key, and learned names by address. `apply` is the only writer of objects; readers see whole updates.

    `names`: the domain names that resolve to an address, as far as DNS answers told them. No update of a source touches them.
    `former_names`: those that an address had before, the last one first, for its established connections. Of at most
    `MAX_FORMER_ADDRESSES`, `MAX_FORMER_NAMES` for each; the rest is forgotten.
    """

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.pods: dict[tuple[str, str], Pod] = {}
        self.policies: dict[tuple[str, str], NetworkPolicy] = {}
        self.cluster_policies: dict[str, ClusterNetworkPolicy] = {}  # by qualified name
        self.nodes: dict[str, Node] = {}
        self.names: dict[AddressKey, frozenset[str]] = {}
        self.former_names: dict[AddressKey, tuple[str, ...]] = {}
        self.rejections: tuple[Rejection, ...] = ()
        self.ignored: Mapping[str, int] = {}
        self.synced = False
        self._by_address: dict[AddressKey, Pod | tuple[Pod, ...]] = {}
        self._nodes_of: dict[AddressKey, tuple[Node, ...]] = {}
        self._dirty = DirtySet()

    def apply(self, update: Update) -> bool:
        """Apply an update. Returns whether any object differs from before."""
        changed = not self.synced
        for key in update.deleted:
            changed |= self._delete(key)
        for item in update.upserted:
            match item:
                case Namespace():
                    changed |= self._put_namespace(item)
                case Pod():
                    changed |= self._put_pod(item)
                case NetworkPolicy():
                    changed |= self._put_policy(item)
                case ClusterNetworkPolicy():
                    changed |= self._put_cluster_policy(item)
                case Node():
                    changed |= self._put_node(item)
        self.rejections = update.rejections
        self.ignored = update.ignored
        self.synced = True
        return changed

    def _put_namespace(self, namespace: Namespace) -> bool:
        if self.namespaces.get(namespace.name) == namespace:
            return False
        self.namespaces[namespace.name] = namespace
        self._dirty.namespaces.add(namespace.name)
        return True

    def _put_pod(self, pod: Pod) -> bool:
        key = pod.namespace, pod.name
        before = self.pods.get(key)
        if before == pod:
            return False
        self.pods[key] = pod
        self._move_addresses(before, pod)
        return True

    def _put_policy(self, policy: NetworkPolicy) -> bool:
        key = policy.namespace, policy.name
        if self.policies.get(key) == policy:
            return False
        self.policies[key] = policy
        self._dirty.policies.add(key)
        return True

    def _put_cluster_policy(self, policy: ClusterNetworkPolicy) -> bool:
        name = policy.qualified_name
        if self.cluster_policies.get(name) == policy:
            return False
        self.cluster_policies[name] = policy
        self._dirty.cluster_policies.add(name)
        return True

    def _put_node(self, node: Node) -> bool:
        before = self.nodes.get(node.name)
        if before == node:
            return False
        self.nodes[node.name] = node
        self._move_node(before, node)
        return True

    def _delete(self, key: ObjectKey) -> bool:
        match key.kind:
            case "Namespace":
                self._dirty.namespaces.add(key.name)
                return self.namespaces.pop(key.name, None) is not None
            case "Pod":
                pod = self.pods.pop((key.namespace, key.name), None)
                self._move_addresses(pod, None)
                return pod is not None
            case "NetworkPolicy":
                self._dirty.policies.add((key.namespace, key.name))
                return self.policies.pop((key.namespace, key.name), None) is not None
            case "Node":
                node = self.nodes.pop(key.name, None)
                self._move_node(node, None)
                return node is not None
            case _:
                name = cluster_policy_name(key.kind, key.name)
                self._dirty.cluster_policies.add(name)
                return self.cluster_policies.pop(name, None) is not None

    def _move_addresses(self, before: Pod | None, after: Pod | None) -> None:
        """Replace the address assignments of a pod."""
        for address in reported_addresses(before):
            self._dirty.addresses.add(address)
            rest = tuple(pod for pod in self.pods_with_address(address) if pod is not before)
            self._set_pods(address, rest)
        for address in reported_addresses(after):
            self._dirty.addresses.add(address)
            present = self.pods_with_address(address)
            self._set_pods(address, (*present, after) if present and after is not None else (after,) if after else ())

    def _set_pods(self, address: AddressKey, pods: tuple[Pod, ...]) -> None:
        # Nearly every address is assigned to one pod, which is stored without a tuple to save memory.
        if not pods:
            self._by_address.pop(address, None)
        else:
            self._by_address[address] = pods[0] if len(pods) == 1 else tuple(sorted(pods, key=_precedence, reverse=True))

    def _move_node(self, before: Node | None, after: Node | None) -> None:
        """Replace the address assignments of a node."""
        for address in () if before is None else before.addresses:
            self._dirty.addresses.add(address)
            rest = tuple(node for node in self._nodes_of[address] if node is not before)
            if rest:
                self._nodes_of[address] = rest
            else:
                del self._nodes_of[address]
        for address in () if after is None else after.addresses:
            self._dirty.addresses.add(address)
            self._nodes_of[address] = (*self._nodes_of.get(address, ()), *(() if after is None else (after,)))

    def set_names(self, address: AddressKey, names: frozenset[str]) -> None:
        """Set the learned names of an address; empty: it has none any more."""
        names = frozenset(map(domain_name, names))
        before = self.names.get(address, frozenset())
        if names == before:
            return
        if names:
            self.names[address] = names
        else:
            del self.names[address]
        former = dict.fromkeys((*sorted(before), *self.former_names.pop(address, ())))
        if kept := tuple(name for name in former if name not in names)[:MAX_FORMER_NAMES]:
            self.former_names[address] = kept  # now the last of the dictionary, so that the first one lost its names long ago
        if len(self.former_names) > MAX_FORMER_ADDRESSES:
            forgotten = next(iter(self.former_names))
            del self.former_names[forgotten]
            self._dirty.addresses.add(forgotten)
        self._dirty.addresses.add(address)

    def take_dirty_set(self) -> DirtySet:
        """Return the changes since the last call; the first call returns everything. For a single reader."""
        dirty, self._dirty = self._dirty, DirtySet()
        return dirty

    def everything(self) -> DirtySet:
        """Return a dirty set of all objects, for a reader that starts empty."""
        addresses = self._by_address.keys() | self._nodes_of.keys() | self.names.keys()
        return DirtySet(addresses, set(self.policies), set(self.cluster_policies), set(self.namespaces))

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """Labels of a namespace; a namespace that was never declared has only its name label."""
        namespace = self.namespaces.get(name)
        return namespace.labels if namespace is not None else {NAMESPACE_NAME_LABEL: name}

    def namespace_deny_with(self, name: str) -> DenyWith | None:
        """What a namespace says that isolation of its pods denies with."""
        namespace = self.namespaces.get(name)
        return None if namespace is None else namespace.deny_with

    def is_in_audit(self, policy: NetworkPolicy | ClusterNetworkPolicy, default: Enforcement) -> bool:
        """Whether a policy is in audit: as its annotation says, else that of its namespace, else `default`."""
        said = policy.enforcement
        if (
            said is None
            and isinstance(policy, NetworkPolicy)
            and (namespace := self.namespaces.get(policy.namespace)) is not None
        ):
            said = namespace.enforcement
        return (said or default) is Enforcement.AUDIT

    def owner(self, address: AddressKey) -> Pod | None:
        """The pod that owns an address; see `address_owners`."""
        found = self._by_address.get(address)
        return found[0] if isinstance(found, tuple) else found

    def pods_with_address(self, address: AddressKey) -> tuple[Pod, ...]:
        """All pods that report an address, its owner first."""
        found = self._by_address.get(address, ())
        return found if isinstance(found, tuple) else (found,)

    def nodes_with_address(self, address: AddressKey) -> tuple[Node, ...]:
        """The nodes that have an address, usually none or one, in no order."""
        return self._nodes_of.get(address, ())

    def address_owners(self) -> dict[bytes, Pod]:
        """Which pod owns each address. Completed pods own none, hostNetwork pods share their node's and own none; so do
        pods that only report an address of their node.

        Where several pods report an address, one that is not being deleted wins, then the running one, then the newest, then the first
        by namespace and name. A pod that is being deleted may be Running until the kubelet has reported its end, when its address is
        already that of a new pod, which is Pending as long as its init containers run.
        """
        owners: dict[bytes, Pod] = {}
        for pod in self.pods.values():
            for address in reported_addresses(pod):
                other = owners.setdefault(address, pod)
                if other is not pod and _precedence(pod) > _precedence(other):
                    owners[address] = pod
        return owners

    def addresses_of_nodes(self) -> dict[str, set[bytes]]:
        """The known addresses of each node by its name: its own, and the hostIPs of all pods that run on it."""
        nodes: dict[str, set[bytes]] = {node.name: set(node.addresses) for node in self.nodes.values()}
        for pod in self.pods.values():
            if pod.node_name:
                nodes.setdefault(pod.node_name, set()).update(pod.host_ips)
        return nodes

    def node_addresses(self, pod: Pod) -> frozenset[bytes]:
        """All known addresses of the node that runs a pod: the pod's hostIPs, and those known for the name of the node."""
        return frozenset(pod.host_ips) | frozenset(self.addresses_of_nodes().get(pod.node_name, ()))

    def policies_of(self, namespace: str, direction: Direction) -> Iterator[NetworkPolicy]:
        """Policies of a namespace that isolate in a direction, in order of name."""
        for key in sorted(self.policies):
            policy = self.policies[key]
            if policy.namespace == namespace and direction in policy.policy_types:
                yield policy

    def cluster_policies_of(self, tier: Tier) -> list[ClusterNetworkPolicy]:
        """The cluster-wide policies of a tier in the order of their evaluation: by priority, then by name."""
        found = (policy for policy in self.cluster_policies.values() if policy.tier is tier)
        return sorted(found, key=lambda policy: (policy.priority, policy.qualified_name))


def reported_addresses(pod: Pod | None) -> tuple[AddressKey, ...]:
    """The addresses that a pod may own: none if it has completed, uses its node's network, or does not exist."""
    if pod is None or pod.completed or pod.host_network:
        return ()
    return tuple(address for address in pod.ips if address not in pod.host_ips)


def _precedence(pod: Pod) -> tuple[bool, bool, str, tuple[int, ...], tuple[int, ...]]:
    # The greatest wins. Names are compared in reverse so that the first by name is the greatest.
    def reverse(text: str) -> tuple[int, ...]:
        return (*(-ord(character) for character in text), 1)

    return not pod.terminating, pod.running, pod.created, reverse(pod.namespace), reverse(pod.name)
