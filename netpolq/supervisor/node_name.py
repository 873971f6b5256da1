"""Whether the name of this agent's node is one that the source knows: under a wrong name no pod is local, and nothing is enforced."""

from netpolq.sources.base import Source
from netpolq.store import Store

_ADVICE = "set --hostname-override to spec.nodeName of this node's pods"


def node_name_problem(source: Source, store: Store, node_name: str) -> str | None:
    """What is wrong with the node's name, and what to set; None if nothing is.

    In a cluster the Node must exist. Where the role does not permit to ask for it, some pod must be on a node of this name: the agent's
    own pod is one.
    """
    if source.kind != "cluster" or source.node_exists:
        return None
    if source.node_exists is False:
        return f'the API server has no Node "{node_name}"; {_ADVICE}'
    if any(pod.node_name == node_name for pod in store.pods.values()):
        return None
    return f'no pod of the source is on node "{node_name}"; {_ADVICE}'
