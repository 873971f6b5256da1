"""A small cluster for tests of enforcement: its pods, policies, and connections between the pods."""

import select
import socket

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import NamedTuple

from loadtest.testbed import manifests
from loadtest.testbed.box import Box, Host
from loadtest.testbed.manifests import Body, policy
from loadtest.testbed.probe import Outcome, Probe
from tests.support.cluster import Cluster, running

SERVED = tuple(product(("TCP", "UDP", "SCTP"), (80, 81)))
ATTEMPTS = (*SERVED, ("ICMP", 0))
NODE = Host(name="node", addresses=("10.79.0.1", "fd79::1"), serves=SERVED)
PODS = tuple(
    Host(name=f"x/{name}", addresses=(f"10.79.1.{end}", f"fd79::1:{end}"), serves=SERVED) for end, name in enumerate("abcd", 1)
)
OUTSIDE = Host(name="outside", addresses=("192.0.2.7", "2001:db8::7"), serves=SERVED)
CLUSTER_BODIES = (manifests.namespace("x"), *(manifests.pod(host, NODE, pod=host.name[-1]) for host in PODS))
LIMIT_S = 20.0
SILENCE_S = 0.5


@contextmanager
def cluster_with(*flags: str) -> Iterator[Cluster]:
    with Box(node=NODE, hosts=(*PODS, OUTSIDE)) as box, running(box, CLUSTER_BODIES, *flags) as started:
        yield started


def pods(*names: str) -> Body:
    """A selector of pods by name."""
    return {"matchExpressions": [{"key": "pod", "operator": "In", "values": list(names)}]}


def pod_peer(*names: str) -> Body:
    """A subject or a peer of a cluster-wide policy: pods by name."""
    return {"pods": {"namespaceSelector": {}, "podSelector": pods(*names)}}


def ingress(*rules: Body) -> Body:
    """A policy for pod a's ingress."""
    return policy("x/ingress", podSelector=pods("a"), policyTypes=["Ingress"], ingress=list(rules))


def egress(*rules: Body) -> Body:
    """A policy for pod b's egress."""
    return policy("x/egress", podSelector=pods("b"), policyTypes=["Egress"], egress=list(rules))


def reached(cluster: Cluster, source: str, destination: str, family: int = 4) -> set[tuple[str, int]]:
    """The protocols and ports that get an answer. All others must time out."""
    address = cluster.box.address(destination, family)
    return through(cluster, [Probe(source, address, protocol, port) for protocol, port in ATTEMPTS])


def through(cluster: Cluster, probes: list[Probe]) -> set[tuple[str, int]]:
    """Protocols and ports of the probes that get an answer."""
    results = cluster.box.probe(probes)
    assert [result for result in results if result.outcome is Outcome.REFUSED] == []
    return {(result.probe.protocol, result.probe.port) for result in results if result.reached}


EVERYTHING = set(ATTEMPTS)


class Talk(NamedTuple):
    """A UDP flow, one datagram at a time."""

    client: socket.socket
    server: socket.socket

    def ask(self, data: bytes) -> None:
        self.client.send(data)

    def answer(self, data: bytes) -> None:
        """Send from the server to the client, even if the server never received anything from it."""
        self.server.sendto(data, (self._address_of_client, self.client.getsockname()[1]))

    @property
    def _address_of_client(self) -> str:
        return str(self.client.getsockname()[0])


@contextmanager
def talk(cluster: Cluster, source: str, destination: str, family: int, service: str | None = None) -> Iterator[Talk]:
    """A flow to port 9000 of a host, or of a service address that is translated to it. Neither end answers by itself."""
    box = cluster.box
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as sockets:
        client, server = (
            sockets.enter_context(box.inside(name, lambda: socket.socket(kind, socket.SOCK_DGRAM)))
            for name in (source, destination)
        )
        server.bind((box.address(destination, family), 9000))
        client.connect((service or box.address(destination, family), 9000))
        for end in (client, server):
            end.settimeout(LIMIT_S)
        yield Talk(client, server)


def receives_nothing(*ends: socket.socket) -> bool:
    """Whether none of these sockets has anything to read, now or for a while; they wait at the same time."""
    return not select.select(ends, [], [], SILENCE_S)[0]
