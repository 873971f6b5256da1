"""The agents of a cluster: the pods of the DaemonSet, one for each node."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from netpolq.errors import NetpolqError
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.watch import StatusError

_PAGE_PODS = 500


class Agent(NamedTuple):
    """The pod of an agent. `problem`: why it cannot be asked, or empty. `address`: of the pod, or empty if it has none yet."""

    node: str
    namespace: str
    pod: str
    problem: str = ""
    address: str = ""


async def find(connection: Connection, namespace: str, selector: str, nodes: Collection[str], *, timeout_s: float) -> list[Agent]:
    """The agents, by node. `nodes`: empty for all. Raises `NetpolqError` if there are none, and what `Connection.get` raises."""
    pods: list[Mapping[str, Any]] = []
    query = {"labelSelector": selector, "limit": str(_PAGE_PODS)}
    if len(nodes) == 1:
        query["fieldSelector"] = f"spec.nodeName={next(iter(nodes))}"
    path = f"/api/v1/namespaces/{namespace}/pods"
    while True:
        try:
            page = orjson.loads(await connection.get(path, query, timeout_s=timeout_s))
        except StatusError as error:
            if error.code in {401, 403}:
                raise NetpolqError(
                    f"the API server does not let you list pods of the namespace {namespace!r} (verb list, resource pods): {error}"
                ) from error
            raise
        except orjson.JSONDecodeError as error:
            raise NetpolqError(f"the API server's list of pods cannot be read: {error}") from error
        pods += page.get("items") or []
        following = page["metadata"].get("continue") if isinstance(page.get("metadata"), dict) else None
        if not following:
            break
        query["continue"] = str(following)
    agents = chosen(pods)
    found = [agent for agent in agents if not nodes or agent.node in nodes]
    missing = sorted(set(nodes) - {agent.node for agent in found})
    if missing or not found:
        where = f"on {', '.join(map(repr, missing))} " if missing else ""
        raise NetpolqError(
            f"there is no agent {where}in the namespace {namespace!r} with the labels {selector!r}; "
            "see --node, --agent-namespace and --agent-selector"
        )
    return found


def chosen(pods: Iterable[Mapping[str, Any]]) -> list[Agent]:
    """One agent for each node. During an upgrade a node has two pods, with one socket: that of the newer one, once it runs."""
    best: dict[str, tuple[tuple[bool, str], Agent]] = {}
    for rank, agent in _agents(pods):
        if agent.node not in best or rank > best[agent.node][0]:
            best[agent.node] = rank, agent
    return sorted(agent for _rank, agent in best.values())


def _agents(pods: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[bool, str], Agent]]:
    for pod in pods:
        metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
        node = str((pod.get("spec") or {}).get("nodeName") or "")
        if not node:
            continue
        phase = str(status.get("phase") or "Unknown")
        problem = "" if phase == "Running" else f"its pod is {phase}"
        if not problem and metadata.get("deletionTimestamp"):
            problem = "its pod is being deleted"
        address = str(status.get("podIP") or status.get("hostIP") or "")
        agent = Agent(node, str(metadata.get("namespace") or ""), str(metadata.get("name") or ""), problem, address)
        yield (not problem, str(metadata.get("creationTimestamp") or "")), agent
