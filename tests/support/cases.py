"""The truth table in `tests/cases/`, read and spelled out. The form of the files is described at the top of `isolation.yaml`."""

import json
import re

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypedDict

import yaml

from netpolq.decision import RuleDecision
from netpolq.enums import Tier
from netpolq.policy.evaluator import Side

CASES = Path(__file__).parent.parent / "cases"

NODE = "node"
OUTSIDE = "outside"
REMOTE = "remote"
NODE_NAME = "node-1"
PODS = tuple(f"{namespace}/{pod}" for namespace in "xyz" for pod in "abc")
ADDRESSES: Mapping[str, Mapping[int, str]] = {
    **{
        f"{namespace}/{pod}": {4: f"10.77.{first}.{second}", 6: f"fd77::{first}:{second}"}
        for first, namespace in enumerate("xyz", 1)
        for second, pod in enumerate("abc", 1)
    },
    NODE: {4: "10.77.0.1", 6: "fd77::1"},
    OUTSIDE: {4: "192.0.2.7", 6: "2001:db8::7"},
    REMOTE: {4: "192.0.2.8", 6: "2001:db8::8"},
}
"""Address of each endpoint by family."""

Body = dict[str, object]
"""An API object as a manifest has it."""

_CLUSTER_GROUP = "policy.networking.k8s.io"
_CHAIN = r"(?: {} (\S+))?"
_LINE = re.compile(
    r"(allow|deny) (\S+) -> (\S+)(?: ([A-Z]\S*))?(?: v([46]))?(?: by(?=.)"
    + _CHAIN.format("egress")
    + _CHAIN.format("ingress")
    + ")?"
)


class Result(NamedTuple):
    """The result of an attempt: whether it succeeds, and the chain of rules of each direction, see `chain_text`; None: not stated."""

    allowed: bool = True
    egress: str | None = None
    ingress: str | None = None


class Expectation(NamedTuple):
    """One attempt and its result. Endpoints: a pod as ns/name, `node`, `outside` or `remote`.

    `protocol`: TCP, UDP, SCTP or ICMP (ICMPv6 between IPv6 addresses); `port`: 0 for ICMP.
    """

    source: str
    destination: str
    protocol: str
    port: int
    family: int
    result: Result

    @property
    def allowed(self) -> bool:
        return self.result.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A set of manifests (API bodies of the whole cluster, policies last) and the connections that they allow.

    `problems`: the fields of cluster-wide policies that must be reported. `names`: learned domain names, and the endpoints with the
    addresses that each resolves to.
    """

    name: str
    manifests: list[Body]
    problems: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    probes: tuple[tuple[str, int], ...]
    endpoints: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def unclear(self) -> list[Body]:
        """The cluster-wide policies, if some of them cannot be read whole."""
        return [body for body in self.manifests if str(body["apiVersion"]).startswith(_CLUSTER_GROUP)] if self.problems else []

    @property
    def resolved(self) -> list[tuple[str, str]]:
        """Each learned name with each of its addresses."""
        return [
            (name, address) for name, endpoints in self.names.items() for end in endpoints for address in ADDRESSES[end].values()
        ]

    def manifest(self) -> str:
        """All manifests as one JSON document of kind List: YAML 1.1 would read the name of namespace y as a truth value."""
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": self.manifests})

    def expectations(self) -> Iterator[Expectation]:
        """Every attempt between two endpoints of which at least one is a pod, in both families.

        Raises `ValueError` for a line that cannot be read or that changes nothing.
        """
        table = {
            (source, destination, *probe, family): Result()
            for source in self.endpoints
            for destination in self.endpoints
            if source in PODS or destination in PODS
            for probe in self.probes
            for family in (4, 6)
        }
        for line in self.lines:
            selected, result = _parse_line(line, table, self.probes)
            if all(table[attempt] == result for attempt in selected):
                raise ValueError(f"{self.name}: the line {line!r} changes nothing")
            table.update(dict.fromkeys(selected, result))
        for attempt, result in table.items():
            source, destination, *_ = attempt
            yield Expectation(*attempt, Result() if source in {destination, NODE} else result)


def chain_text(side: Side) -> str:
    """The rules of a direction in the form of the truth table: those that pass, then the decision, separated by `>`.

    `TIER/POLICY[POSITION]` is a rule of a cluster-wide policy, `NAMESPACE/POLICY[POSITION]` a rule of a NetworkPolicy, `isolated` the
    isolation by NetworkPolicies, `none` that no policy decides.
    """
    end = "none" if side.decision is None else "isolated"
    return ">".join([*map(_rule_text, side.passes), end if side.rule is None else _rule_text(side.rule)])


def _rule_text(rule: RuleDecision) -> str:
    tier = "" if rule.tier is Tier.NETWORK_POLICY else f"{rule.tier.label}/"
    return f"{tier}{rule.policy}[{rule.position}]"


@cache
def load_cases() -> tuple[Case, ...]:
    """All cases of all files, in order of file name."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(CASES.glob("*.yaml")))
    # The loader in C: every process of a test run collects the cases, which takes PyYAML's own loader half a second.
    return tuple(_case(body) for text in texts for body in yaml.load(text, yaml.CSafeLoader))


_Attempt = tuple[str, str, str, int, int]


def _parse_line(line: str, attempts: Iterable[_Attempt], probes: tuple[tuple[str, int], ...]) -> tuple[list[_Attempt], Result]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"not an expectation: {line!r}")
    word, sources, destinations, wanted, family, egress, ingress = found.groups()
    selected_probes = {_probe(text) for text in wanted.split(",")} if wanted else set(probes)
    if not selected_probes <= set(probes):
        raise ValueError(f"not probed: {line!r}")
    families = {int(family)} if family else {4, 6}
    selected = [
        (source, destination, protocol, port, version)
        for source, destination, protocol, port, version in attempts
        if _named(source, sources)
        and _named(destination, destinations)
        and (protocol, port) in selected_probes
        and version in families
    ]
    return selected, Result(word == "allow", egress, ingress)


def _named(endpoint: str, patterns: str) -> bool:
    return any(fnmatchcase(endpoint, pattern) for pattern in patterns.split(","))


def _probe(text: str) -> tuple[str, int]:
    protocol, _, port = text.partition("/")
    return protocol, int(port or 0)


class _Node(TypedDict):
    labels: dict[str, str]
    addresses: list[str]


class _Required(TypedDict):
    case: str
    expect: list[str]


class _CaseBody(_Required, total=False):
    policies: dict[str, Body]
    cluster_policies: dict[str, Body]
    version: str
    problems: list[str]
    names: dict[str, list[str]]
    nodes: dict[str, _Node]
    host_network: dict[str, str]
    labels: dict[str, dict[str, str]]
    ports: dict[str, list[Body]]
    probe: list[str]
    endpoints: list[str]


def _case(body: _CaseBody) -> Case:
    unknown = body.keys() - _CaseBody.__annotations__.keys()
    if unknown:
        raise ValueError(f"{body['case']}: unknown keys {sorted(unknown)}")
    return Case(
        name=body["case"],
        manifests=[
            *_cluster(body.get("labels", {}), body.get("ports", {})),
            *(_node(name, node) for name, node in body.get("nodes", {}).items()),
            *(_pod(name, endpoint, _SERVED) for name, endpoint in body.get("host_network", {}).items()),
            *(_policy(name, spec) for name, spec in body.get("policies", {}).items()),
            *(
                _cluster_policy(name, spec, body.get("version", "v1alpha2"))
                for name, spec in body.get("cluster_policies", {}).items()
            ),
        ],
        problems=tuple(body.get("problems", [])),
        names={name: tuple(endpoints) for name, endpoints in body.get("names", {}).items()},
        probes=tuple(_probe(text) for text in body.get("probe", ["TCP/80"])),
        endpoints=(*PODS, *body.get("endpoints", [])),
        lines=tuple(body["expect"]),
    )


def _cluster(labels: Mapping[str, Mapping[str, str]], ports: Mapping[str, list[Body]]) -> Iterator[Body]:
    unknown = (labels.keys() | ports.keys()) - {*PODS, *"xyz"}
    if unknown:
        raise ValueError(f"not in the cluster: {sorted(unknown)}")
    for namespace in "xyz":
        metadata = {"name": namespace, "labels": {"ns": namespace, **labels.get(namespace, {})}}
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    for pod in PODS:
        yield _pod(pod, NODE, ports.get(pod, _SERVED), pod, labels.get(pod, {}))


def _pod(
    key: str, node: str, ports: Iterable[Body], own: str | None = None, labels: Mapping[str, str] = MappingProxyType({})
) -> Body:
    """A pod on a node, which is an endpoint. `own`: the endpoint that has the pod's addresses; None: it uses the network of the node."""
    namespace, name = key.split("/")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name, **labels}},
        "spec": {
            "nodeName": NODE_NAME if node == NODE else node,
            **({} if own else {"hostNetwork": True}),
            # One container for each port, because within a container a port's name is unique.
            "containers": [{"name": f"serve-{number}", "image": "serve", "ports": [port]} for number, port in enumerate(ports)],
        },
        "status": {
            "phase": "Running",
            "podIP": ADDRESSES[own or node][4],
            "podIPs": [{"ip": ADDRESSES[own or node][family]} for family in (4, 6)],
            "hostIP": ADDRESSES[node][4],
            "hostIPs": [{"ip": ADDRESSES[node][family]} for family in (4, 6)],
        },
    }


def _node(name: str, node: _Node) -> Body:
    addresses = [{"type": "InternalIP", "address": address} for address in node["addresses"]]
    metadata = {"name": name, "labels": node["labels"]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"addresses": addresses}}


_SERVED: list[Body] = [
    {"name": f"serve-{port}-{protocol.lower()}", "containerPort": port, "protocol": protocol}
    for port in (80, 81)
    for protocol in ("TCP", "UDP", "SCTP")
]


def _policy(key: str, spec: Body) -> Body:
    namespace, name = key.split("/")
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _cluster_policy(key: str, spec: Body, version: str) -> Body:
    """A policy of the kind that its key begins with, else a ClusterNetworkPolicy of a version."""
    *kinds, name = key.split("/")
    kind = kinds[0] if kinds else "ClusterNetworkPolicy"
    api_version = f"{_CLUSTER_GROUP}/{'v1alpha1' if kinds else version}"
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
