"""Local pods as `netpolq pods` shows them: the document that the supervisor serves at GET /pods on the status socket, and its text.

The document tells what is compiled. The policies of a pod are those of the programs of its addresses; no selector is evaluated again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Any

import orjson

from netpolq.addresses import AddressKey, format_address
from netpolq.enums import Direction, Tier
from netpolq.logs import one_line
from netpolq.model import ObjectKey, Pod
from netpolq.policy.compiler import Compiler
from netpolq.policy.tier_policy import TierPolicy
from netpolq.supervisor.rollout import Rollout
from netpolq.text_table import columns

PODS_PATH = "/pods"

_MAX_NAMED = 3
"""Number of names in a cell of the table of several pods. The table of one pod has all of them."""


class AddressSource(StrEnum):
    """Where the agent has an address from: from the API or a manifest, or early, from the result of a CNI plug-in."""

    API = "api"
    CNI_RESULT = "cni-result"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodAddress:
    """An address of a pod. `source`: a value of `AddressSource`."""

    address: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPolicyName:
    """A cluster-wide policy: its tier, and its qualified name."""

    tier: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDirection:
    """The policies that decide for one direction of a pod, in the order of their evaluation. `isolated`: by NetworkPolicies."""

    isolated: bool
    network_policies: list[str]
    cluster_policies: list[ClusterPolicyName]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPod:
    """A pod of this node. `reads_dns`: a policy with domain names selects it, so the agent reads the DNS answers that it gets."""

    namespace: str
    name: str
    addresses: list[PodAddress]
    ingress: PodDirection
    egress: PodDirection
    reads_dns: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPods:
    """The whole document. `version`: of netpolq. `compiled`: false until this supervisor has compiled; there are no pods then.

    `snapshot_version`: the newest published version, `in_force_version`: the one in force, as in the status document.
    """

    version: str
    compiled: bool
    snapshot_version: int
    in_force_version: int
    pods: list[LocalPod]


def report(compiler: Compiler, rollout: Rollout, early_addresses: Callable[[ObjectKey], Sequence[AddressKey]]) -> LocalPods:
    """The present document; see `local_pods`."""
    return LocalPods(
        version=version("netpolq"),
        compiled=not rollout.next_is_complete,
        snapshot_version=rollout.version,
        in_force_version=rollout.in_force_version,
        pods=local_pods(compiler, early_addresses),
    )


def local_pods(compiler: Compiler, early_addresses: Callable[[ObjectKey], Sequence[AddressKey]]) -> list[LocalPod]:
    """The pods that the compiler has programs for, or would have if a policy selected them, in order of namespace and name.

    `early_addresses`: those of a pod that come from CNI results.
    """
    by_pod: dict[tuple[str, str], tuple[Pod, list[AddressKey]]] = {}
    for address in sorted(compiler.local):
        pod = compiler.local_pod(address)
        if pod is not None:  # else it has left since
            by_pod.setdefault((pod.namespace, pod.name), (pod, []))[1].append(address)
    return [
        _local_pod(pod, addresses, compiler, frozenset(early_addresses(pod.key)))
        for _key, (pod, addresses) in sorted(by_pod.items())
    ]


def _local_pod(pod: Pod, addresses: list[AddressKey], compiler: Compiler, early: frozenset[AddressKey]) -> LocalPod:
    deciding = [compiler.deciding_policies(address) for address in addresses]
    egress, ingress = (_direction(of_address[direction] for of_address in deciding) for direction in Direction)
    return LocalPod(
        namespace=pod.namespace,
        name=pod.name,
        addresses=[
            PodAddress(
                address=format_address(address), source=AddressSource.CNI_RESULT if address in early else AddressSource.API
            )
            for address in addresses
        ],
        ingress=ingress,
        egress=egress,
        reads_dns=not compiler.asking.isdisjoint(addresses),
    )


def _direction(by_address: Iterable[tuple[TierPolicy, ...]]) -> PodDirection:
    # By name, because the hash of a policy takes time for each of its rules.
    policies = dict.fromkeys((policy.tier, policy.name) for policies in by_address for policy in policies)
    names = [name for tier, name in policies if tier is Tier.NETWORK_POLICY]
    return PodDirection(
        isolated=bool(names),
        network_policies=names,
        cluster_policies=[
            ClusterPolicyName(tier=tier.label, name=name) for tier, name in policies if tier is not Tier.NETWORK_POLICY
        ],
    )


def encode(pods: LocalPods) -> bytes:
    """The document as JSON."""
    return orjson.dumps(pods)


def decode(data: bytes) -> LocalPods:
    """The document in JSON bytes. Raises `ValueError` for other fields than those of this version."""
    try:
        document = orjson.loads(data)
        return LocalPods(**{**document, "pods": [_decoded_pod(pod) for pod in document["pods"]]})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a document of pods: {error}") from error


def _decoded_pod(fields: dict[str, Any]) -> LocalPod:
    return LocalPod(
        **{
            **fields,
            "addresses": [PodAddress(**address) for address in fields["addresses"]],
            "ingress": _decoded_direction(fields["ingress"]),
            "egress": _decoded_direction(fields["egress"]),
        }
    )


def _decoded_direction(fields: dict[str, Any]) -> PodDirection:
    return PodDirection(**{**fields, "cluster_policies": [ClusterPolicyName(**policy) for policy in fields["cluster_policies"]]})


def matching(pods: Iterable[LocalPod], namespace: str, name: str) -> list[LocalPod]:
    """The pods of a namespace and a name. An empty text matches all."""
    return [pod for pod in pods if namespace in {"", pod.namespace} and name in {"", pod.name}]


def render_json(pods: LocalPods) -> str:
    """The document as indented JSON, without the last line end."""
    return orjson.dumps(pods, option=orjson.OPT_INDENT_2).decode()


def render_text(pods: LocalPods) -> str:
    """A table with a line for each pod, without the last line end; before it, what to know about the state of the agent."""
    return "\n".join(map(one_line, (*_notes(pods), *_table(pods.pods))))


def _notes(pods: LocalPods) -> Iterator[str]:
    if not pods.compiled:
        yield "No policies are compiled since the last start of the supervisor, so no pods are known. Ask again in a moment."
    elif pods.in_force_version != pods.snapshot_version:
        yield f"Version {pods.snapshot_version} is shown; version {pods.in_force_version} is in force until all workers have followed."


def _table(pods: list[LocalPod]) -> Iterator[str]:
    limit = _MAX_NAMED if len(pods) > 1 else None
    heads = ("POD", "ADDRESSES", "INGRESS", "EGRESS", "CLUSTER-WIDE POLICIES", "DNS")
    return columns([heads, *(_row(pod, limit) for pod in pods)])


def _row(pod: LocalPod, limit: int | None) -> tuple[str, ...]:
    early = {AddressSource.CNI_RESULT: " (CNI result)"}
    addresses = [f"{each.address}{early.get(AddressSource(each.source), '')}" for each in pod.addresses]
    return (
        f"{pod.namespace}/{pod.name}",
        _listed(addresses, limit),
        _isolation(pod.ingress, limit),
        _isolation(pod.egress, limit),
        _listed(_cluster_policies(pod), limit) or "none",
        "read" if pod.reads_dns else "not read",
    )


def _isolation(direction: PodDirection, limit: int | None) -> str:
    # NetworkPolicies are of the namespace of their pods.
    names = [name.rpartition("/")[2] for name in direction.network_policies]
    return f"isolated by {_listed(names, limit)}" if direction.isolated else "not isolated"


def _cluster_policies(pod: LocalPod) -> list[str]:
    """Each policy once, with its directions."""
    directions: dict[tuple[str, str], list[str]] = {}
    for direction, side in (("ingress", pod.ingress), ("egress", pod.egress)):
        for policy in side.cluster_policies:
            directions.setdefault((policy.tier, policy.name), []).append(direction)
    return [f"{tier} {name} ({'+'.join(found)})" for (tier, name), found in sorted(directions.items())]


def _listed(names: Sequence[str], limit: int | None) -> str:
    more = 0 if limit is None else len(names) - limit
    return ", ".join(names if more <= 0 else (*names[:limit], f"{more} more"))
