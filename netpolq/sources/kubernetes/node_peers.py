"""Policies with node peers, which need the nodes, and the nodes as they are in force.

Without the addresses of the nodes such a policy would be in force and deny no node. Therefore it waits until the nodes are complete, and
everything else passes. An event of a node that changes neither labels nor addresses, such as a heartbeat, changes nothing here.
"""

from netpolq.model import ClusterNetworkPolicy, NodePeer, Object, ObjectKey, Rejection
from netpolq.sources.kubernetes.watch import Changes


class NodePeers:
    """Follows the changes of a source. `used_by`: the keys of the policies with node peers."""

    def __init__(self) -> None:
        self.used_by: set[ObjectKey] = set()
        self._waiting: dict[ObjectKey, Object] = {}
        self._nodes: dict[ObjectKey, Object] = {}
        self._rejections: dict[ObjectKey, Rejection] = {}

    @property
    def waiting(self) -> list[ObjectKey]:
        """The keys of the policies that wait, sorted."""
        return sorted(self._waiting)

    def note(self, changes: Changes) -> None:
        """Note which policies have node peers now. A newer version of a policy replaces one that waits."""
        for key in changes.deleted:
            self.used_by.discard(key)
            self._waiting.pop(key, None)
        for key, item in changes.upserted.items():
            if isinstance(item, ClusterNetworkPolicy):
                self._waiting.pop(key, None)
                if has_node_peer(item):
                    self.used_by.add(key)
                else:
                    self.used_by.discard(key)

    def hold_back(self, changes: Changes) -> None:
        """Take the policies with node peers out of the changes, to wait."""
        for key in self.used_by & changes.upserted.keys():
            self._waiting[key] = changes.upserted.pop(key)

    def release(self, changes: Changes) -> None:
        """Add the policies that wait to the changes."""
        changes.upserted.update(self._waiting)
        self._waiting.clear()

    def drop_unchanged(self, changes: Changes) -> None:
        """Take the nodes out of the changes that are the same as in force."""
        for key in [key for key in changes.deleted if key.kind == "Node"]:
            was_there = self._nodes.pop(key, None) is not None
            rejection = changes.rejections.get(key)
            if not was_there and self._rejections.get(key) == rejection:
                changes.deleted.discard(key)
                changes.rejections.pop(key, None)
            else:
                self._keep_rejection(key, rejection)
        for key in [key for key in changes.upserted if key.kind == "Node"]:
            node, rejection = changes.upserted[key], changes.rejections.get(key)
            if self._nodes.get(key) == node and self._rejections.get(key) == rejection:
                del changes.upserted[key]
                changes.rejections.pop(key, None)
            else:
                self._nodes[key] = node
                self._keep_rejection(key, rejection)

    def _keep_rejection(self, key: ObjectKey, rejection: Rejection | None) -> None:
        self._rejections.pop(key, None)
        if rejection is not None:
            self._rejections[key] = rejection


def has_node_peer(policy: ClusterNetworkPolicy) -> bool:
    """Whether some rule of a policy has a node peer."""
    return any(isinstance(peer, NodePeer) for rule in (*policy.ingress, *policy.egress) for peer in rule.peers or ())
