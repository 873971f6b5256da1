"""The current objects. Holds what the source last said and nothing else: no history, no derived state."""

from collections.abc import Iterator, Mapping

from netpolq.enums import Direction
from netpolq.model import NAMESPACE_NAME_LABEL, Namespace, NetworkPolicy, ObjectKey, Pod, Rejection, Update


class Store:
    """Objects by key. `apply` is the only writer; readers see whole updates."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.pods: dict[tuple[str, str], Pod] = {}
        self.policies: dict[tuple[str, str], NetworkPolicy] = {}
        self.rejections: tuple[Rejection, ...] = ()
        self.ignored: Mapping[str, int] = {}
        self.synced = False

    def apply(self, update: Update) -> bool:
        """Take over an update. Returns whether any object differs from before."""
        changed = not self.synced
        for key in update.deleted:
            changed |= self._delete(key)
        for item in update.upserted:
            match item:
                case Namespace():
                    changed |= self.namespaces.get(item.name) != item
                    self.namespaces[item.name] = item
                case Pod():
                    changed |= self.pods.get((item.namespace, item.name)) != item
                    self.pods[item.namespace, item.name] = item
                case NetworkPolicy():
                    changed |= self.policies.get((item.namespace, item.name)) != item
                    self.policies[item.namespace, item.name] = item
        self.rejections = update.rejections
        self.ignored = update.ignored
        self.synced = True
        return changed

    def _delete(self, key: ObjectKey) -> bool:
        match key.kind:
            case "Namespace":
                return self.namespaces.pop(key.name, None) is not None
            case "Pod":
                return self.pods.pop((key.namespace, key.name), None) is not None
            case "NetworkPolicy":
                return self.policies.pop((key.namespace, key.name), None) is not None

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """Labels of a namespace; one that was never declared has only its name label."""
        namespace = self.namespaces.get(name)
        return namespace.labels if namespace is not None else {NAMESPACE_NAME_LABEL: name}

    def address_owners(self) -> dict[bytes, Pod]:
        """Which pod owns each address. Completed pods own none, hostNetwork pods share their node's and own none.

        Where several pods claim an address the running one wins, then the newest, then the first by namespace and name.
        """
        owners: dict[bytes, Pod] = {}
        for pod in self.pods.values():
            if not pod.completed and not pod.host_network:
                for address in pod.ips:
                    other = owners.setdefault(address, pod)
                    if other is not pod and _claim_strength(pod) > _claim_strength(other):
                        owners[address] = pod
        return owners

    def addresses_of_nodes(self) -> dict[str, set[bytes]]:
        """The known addresses of each node by its name: the hostIPs of all pods that run on it."""
        nodes: dict[str, set[bytes]] = {}
        for pod in self.pods.values():
            if pod.node_name:
                nodes.setdefault(pod.node_name, set()).update(pod.host_ips)
        return nodes

    def node_addresses(self, pod: Pod) -> frozenset[bytes]:
        """All known addresses of the node that runs a pod: its own hostIPs and those of pods on a node of the same name."""
        return frozenset(pod.host_ips) | frozenset(self.addresses_of_nodes().get(pod.node_name, ()))

    def policies_of(self, namespace: str, direction: Direction) -> Iterator[NetworkPolicy]:
        """Policies of a namespace that isolate in a direction, in order of name."""
        for key in sorted(self.policies):
            policy = self.policies[key]
            if policy.namespace == namespace and direction in policy.policy_types:
                yield policy


def _claim_strength(pod: Pod) -> tuple[bool, str, tuple[int, ...], tuple[int, ...]]:
    # The greatest wins. Names are compared in reverse so that the first by name is the greatest.
    def reverse(text: str) -> tuple[int, ...]:
        return (*(-ord(character) for character in text), 1)

    return pod.running, pod.created, reverse(pod.namespace), reverse(pod.name)
