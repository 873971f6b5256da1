"""API bodies for tests, the hosts of a box that they describe, and their manifest files."""

import json
import random

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from loadtest.testbed.box import Host

Body = Mapping[str, object]


class _Port(TypedDict, total=False):
    name: str
    containerPort: int
    protocol: str


class _Address(TypedDict):
    ip: str


class _Container(TypedDict):
    ports: list[_Port]


class _Metadata(TypedDict):
    namespace: str
    name: str


class _Spec(TypedDict):
    containers: list[_Container]


class _PodStatus(TypedDict):
    podIPs: list[_Address]


class _PodBody(TypedDict):
    metadata: _Metadata
    spec: _Spec
    status: _PodStatus


def host_of(body: Body) -> Host:
    """The host that a pod's manifest describes: its addresses, and a server on each of its container ports."""
    pod = cast("_PodBody", body)
    return Host(
        name=f"{pod['metadata']['namespace']}/{pod['metadata']['name']}",
        addresses=tuple(address["ip"] for address in pod["status"]["podIPs"]),
        serves=tuple(
            (port.get("protocol", "TCP"), port["containerPort"])
            for container in pod["spec"]["containers"]
            for port in container["ports"]
        ),
    )


def namespace(name: str, **labels: str) -> Body:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(host: Host, node: Host, **labels: str) -> Body:
    """The manifest of a host named namespace/name that runs on a node. Its ports are named after protocol and number: tcp-80."""
    namespace_name, name = host.name.split("/")
    ports = [
        {"name": f"{protocol.lower()}-{port}", "containerPort": port, "protocol": protocol} for protocol, port in host.serves
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace_name, "name": name, "labels": labels},
        "spec": {"nodeName": node.name, "containers": [{"name": "main", "image": "echo", "ports": ports}]},
        "status": {
            "phase": "Running",
            "podIP": host.addresses[0],
            "podIPs": [{"ip": address} for address in host.addresses],
            "hostIP": node.addresses[0],
            "hostIPs": [{"ip": address} for address in node.addresses],
        },
    }


def policy(key: str, **spec: object) -> Body:
    """A NetworkPolicy named namespace/name with the given fields of its spec; `podSelector` selects all pods unless given."""
    namespace_name, name = key.split("/")
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace_name, "name": name},
        "spec": {"podSelector": {}, **spec},
    }


def cluster_policy(name: str, **spec: object) -> Body:
    """A ClusterNetworkPolicy with the given fields of its spec."""
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def write(path: Path, bodies: Iterable[Body]) -> None:
    """Replace a manifest file in one step, so that no reader sees a partial file."""
    items: Sequence[Body] = list(bodies)
    # A hidden name, so that the agent ignores the file until it is complete.
    builder = path.with_name(f".{path.name}")
    builder.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), encoding="utf-8")
    builder.replace(path)


def rules_with_large_tables(side: str) -> list[Body]:
    """Rules of more addresses times ports than a program has merged tables for. Ports 2000 to 7999.

    `side`: "from" or "to".
    """
    rng = random.Random(0)

    def excepted() -> list[str]:
        return [f"172.16.{number >> 8}.{number & 255}/32" for number in rng.sample(range(1 << 16), 300)]

    return [
        {
            side: [{"ipBlock": {"cidr": "0.0.0.0/0", "except": excepted()}}],
            "ports": [{"port": 2000 + 20 * step + rule} for step in range(300)],
        }
        for rule in range(20)
    ]
