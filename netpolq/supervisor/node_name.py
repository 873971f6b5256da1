"""Check of the node name against the source: with a wrong name no pod is local, and nothing is enforced."""

from netpolq.sources.source import Source
from netpolq.store import Store

_ADVICE = "set --hostname-override to spec.nodeName of this node's pods"


def node_name_problem(source: Source, store: Store, node_name: str) -> str | None:
    """The problem with the node name and its fix, or None. The source must be synced."""
    if source.kind == "cluster":
        return _problem_in_cluster(source.node_exists, store, node_name)
    return _problem_in_manifests(store, node_name)


def _problem_in_cluster(node_exists: bool | None, store: Store, node_name: str) -> str | None:
    """The Node must exist.

    If the role does not permit reading Nodes, some pod must be on a node of this name: the agent's own pod is one.
    """
    if node_exists:
        return None
    if node_exists is False:
        return f'the API server has no Node "{node_name}"; {_ADVICE}'
    if any(pod.node_name == node_name for pod in store.pods.values()):
        return None
    return f'no pod of the source is on node "{node_name}"; {_ADVICE}'


def _problem_in_manifests(store: Store, node_name: str) -> str | None:
    """If there are pods, at least one must be on this node or have no node name."""
    pods = store.pods.values()
    if not pods or any(pod.node_name in {"", node_name} for pod in pods):
        return None
    named = next(pod.node_name for pod in pods)
    return (
        f"no pod of the manifests has spec.nodeName {node_name!r}, the name of this node (--hostname-override), "
        f"or none; one has {named!r}: no pod is enforced"
    )
