"""The truth table in `tests/cases/`, read and spelled out. The form of the files is described at the top of `isolation.yaml`."""

import json
import re

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypedDict

import yaml

CASES = Path(__file__).parent.parent / "cases"

NODE = "node"
OUTSIDE = "outside"
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
}
"""Address of each endpoint by family."""

Body = dict[str, object]
"""An API object as a manifest has it."""

_LINE = re.compile(r"(allow|deny) (\S+) -> (\S+)(?: ([A-Z]\S*))?(?: v([46]))?")


class Expectation(NamedTuple):
    """One attempt and whether it must succeed. Endpoints: a pod as ns/name, `node` or `outside`.

    `protocol`: TCP, UDP, SCTP or ICMP (ICMPv6 between IPv6 addresses); `port`: 0 for ICMP.
    """

    source: str
    destination: str
    protocol: str
    port: int
    allowed: bool
    family: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A set of manifests (API bodies of the whole cluster, policies last) and the connections that they allow."""

    name: str
    manifests: list[Body]
    probes: tuple[tuple[str, int], ...]
    endpoints: tuple[str, ...]
    lines: tuple[str, ...]

    def manifest(self) -> str:
        """All manifests as one JSON document of kind List: YAML 1.1 would read the name of namespace y as a truth value."""
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": self.manifests})

    def expectations(self) -> Iterator[Expectation]:
        """Every attempt between two endpoints of which at least one is a pod, in both families.

        Raises `ValueError` for a line that cannot be read or that changes nothing.
        """
        table = {
            (source, destination, *probe, family): True
            for source in self.endpoints
            for destination in self.endpoints
            if source in PODS or destination in PODS
            for probe in self.probes
            for family in (4, 6)
        }
        for line in self.lines:
            selected, allowed = _parse_line(line, table, self.probes)
            if all(table[attempt] is allowed for attempt in selected):
                raise ValueError(f"{self.name}: the line {line!r} changes nothing")
            table.update(dict.fromkeys(selected, allowed))
        for (source, destination, protocol, port, family), allowed in table.items():
            always = source in {destination, NODE}
            yield Expectation(source, destination, protocol, port, allowed or always, family)


def load_cases() -> list[Case]:
    """All cases of all files, in order of file name."""
    return [_case(body) for path in sorted(CASES.glob("*.yaml")) for body in yaml.safe_load(path.read_text(encoding="utf-8"))]


_Attempt = tuple[str, str, str, int, int]


def _parse_line(line: str, attempts: Iterable[_Attempt], probes: tuple[tuple[str, int], ...]) -> tuple[list[_Attempt], bool]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"not an expectation: {line!r}")
    word, sources, destinations, wanted, family = found.groups()
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
    return selected, word == "allow"


def _named(endpoint: str, patterns: str) -> bool:
    return any(fnmatchcase(endpoint, pattern) for pattern in patterns.split(","))


def _probe(text: str) -> tuple[str, int]:
    protocol, _, port = text.partition("/")
    return protocol, int(port or 0)


class _Required(TypedDict):
    case: str
    policies: dict[str, Body]
    expect: list[str]


class _CaseBody(_Required, total=False):
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
            *(_policy(name, spec) for name, spec in body["policies"].items()),
        ],
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
        namespace, name = pod.split("/")
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name, **labels.get(pod, {})}},
            "spec": {
                "nodeName": NODE_NAME,
                # One container for each port, because within a container a port's name is unique.
                "containers": [
                    {"name": f"serve-{number}", "image": "serve", "ports": [port]}
                    for number, port in enumerate(ports.get(pod, _SERVED))
                ],
            },
            "status": {
                "phase": "Running",
                "podIP": ADDRESSES[pod][4],
                "podIPs": [{"ip": ADDRESSES[pod][family]} for family in (4, 6)],
                "hostIP": ADDRESSES[NODE][4],
                "hostIPs": [{"ip": ADDRESSES[NODE][family]} for family in (4, 6)],
            },
        }


_SERVED: list[Body] = [
    {"name": f"serve-{port}-{protocol.lower()}", "containerPort": port, "protocol": protocol}
    for port in (80, 81)
    for protocol in ("TCP", "UDP", "SCTP")
]


def _policy(key: str, spec: Body) -> Body:
    namespace, name = key.split("/")
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
