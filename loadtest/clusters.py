"""The clusters of the load test: generated API objects, and the manifest folder of an agent.

One pod exists in the lab, `SERVER`; the others are objects on other nodes, whose addresses the generator uses as sources. Their addresses
are
contiguous, so that a range names them all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import count, islice
from pathlib import Path

from loadtest.testbed import manifests
from loadtest.testbed.box import Host
from loadtest.testbed.manifests import Body

NAMESPACE = "load"
PORT = 8080
NODE = Host(name="load-node", addresses=("10.200.0.1", "fd00:200::1"))
SERVER = Host(name=f"{NAMESPACE}/server", addresses=("10.200.1.1", "fd00:200:1::1"))
CLIENTS = tuple(
    Host(name=f"{NAMESPACE}/client-{number}", addresses=(f"10.200.7.{number}", f"fd00:200:7::{number}")) for number in (1, 2)
)
"""Pods of the same node that open real connections."""

UPLINK = ("10.200.2.1", "fd00:200:2::1")
"""Addresses of the sender, through which all packets from outside the node arrive."""

OUTSIDERS = "198.18.0.0/15"
"""Addresses that no pod has. Source: RFC 2544, set aside for measurements."""

_FIRST_POD = int(IPv4Address("10.64.0.0"))
_OTHER_NODES = tuple(Host(name=f"node-{number}", addresses=(f"10.200.3.{number}",)) for number in range(1, 101))
_PODS_PER_NAMESPACE = 100
_OBJECTS_PER_FILE = 10_000
_SENDERS = 8
_LOCAL_PODS = 110
_CHANGING_PODS = 200
_TIERS = ("frontend", "backend", "data")
_TEAMS = ("payments", "search", "catalogue", "identity", "logistics")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCluster:
    """A cluster with many policies.

    `on_pod`: policies that select the server; each admits one group of pods to `ports`, pairs of protocol and number. `policies` and
    `pods`: of the whole cluster. `sender_count`: pods that send. `clients`: pods of the same node, all of the middle group, so that a
    linear search visits half of the policies.
    """

    on_pod: int = 1
    policies: int = 1
    pods: int = _SENDERS
    sender_count: int = _SENDERS
    ports: tuple[tuple[str, int], ...] = (("UDP", PORT),)
    clients: tuple[Host, ...] = ()

    @property
    def near(self) -> int:
        """Number of pods in the namespace of the server. They come first; all others are in other namespaces."""
        return min(self.pods, max(self.sender_count, self.on_pod))

    def bodies(self) -> Iterator[Body]:
        """All objects."""
        near = self.near
        yield manifests.namespace(NAMESPACE)
        yield manifests.pod(SERVER, NODE, app="server")
        for client in self.clients:
            yield manifests.pod(client, NODE, group=f"group-{self.on_pod // 2}")
        for index in range(near):
            yield _pod(index, NAMESPACE, group=f"group-{index % self.on_pod}")
        yield from self.policies_on_pod()
        others = -(-(self.pods - near) // _PODS_PER_NAMESPACE)
        for number in range(others):
            yield manifests.namespace(_team_namespace(number), team=_TEAMS[number % len(_TEAMS)])
        for index in range(near, self.pods):
            number = (index - near) // _PODS_PER_NAMESPACE
            yield _pod(index, _team_namespace(number), tier=_TIERS[index % len(_TIERS)], app=f"app-{index % 10}")
        for index in range(self.policies - self.on_pod):
            number = index % max(1, others)
            yield manifests.policy(
                f"{_team_namespace(number)}/policy-{index}",
                podSelector={"matchLabels": {"app": f"app-{index // max(1, others) % 10}"}},
                ingress=[
                    {
                        "from": [{"podSelector": {"matchLabels": {"tier": _TIERS[index % len(_TIERS)]}}}],
                        "ports": [{"protocol": "TCP", "port": 1024 + index % 60_000}],
                    }
                ],
            )

    def policies_on_pod(self) -> Iterator[Body]:
        """The policies that select the server."""
        for index in range(self.on_pod):
            yield manifests.policy(
                f"{NAMESPACE}/server-{index}",
                podSelector={"matchLabels": {"app": "server"}},
                ingress=[
                    {
                        "from": [{"podSelector": {"matchLabels": {"group": f"group-{index}"}}}],
                        "ports": [{"protocol": protocol, "port": port} for protocol, port in self.ports],
                    }
                ],
            )

    def senders(self) -> tuple[str, ...]:
        """Pods whose policies are distributed evenly, so that a linear search visits half of the policies on average."""
        count = self.sender_count
        if self.on_pod < count:
            return tuple(pod_address(number) for number in range(count))
        return tuple(pod_address((2 * number + 1) * self.on_pod // (2 * count)) for number in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedCluster:
    """A cluster whose policies admit peers by pod and namespace selectors and by IP blocks with exceptions, on ranges of ports."""

    pods: int

    def bodies(self) -> Iterator[Body]:
        """All objects."""
        yield manifests.namespace(NAMESPACE, team=_TEAMS[0])
        yield manifests.pod(SERVER, NODE, app="server")
        for number in range(-(-self.pods // _PODS_PER_NAMESPACE)):
            yield manifests.namespace(_team_namespace(number), team=_TEAMS[number % len(_TEAMS)])
        for index in range(self.pods):
            yield _pod(index, _team_namespace(index // _PODS_PER_NAMESPACE), tier=_TIERS[index % len(_TIERS)])
        server = {"matchLabels": {"app": "server"}}
        for tier in _TIERS:
            selector = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": tier}}}
            yield manifests.policy(
                f"{NAMESPACE}/{tier}",
                podSelector=server,
                ingress=[{"from": [selector], "ports": [{"protocol": "UDP", "port": 1024, "endPort": 32_767}]}],
            )
        for team in _TEAMS[:-1]:
            yield manifests.policy(
                f"{NAMESPACE}/{team}",
                podSelector=server,
                ingress=[
                    {
                        "from": [{"namespaceSelector": {"matchLabels": {"team": team}}}],
                        "ports": [{"protocol": "UDP", "port": 32_768, "endPort": 65_535}],
                    }
                ],
            )
        excepted = [f"198.18.{number}.0/24" for number in range(0, 256, 16)]
        for block, ports in (("198.18.0.0/16", (1024, 65_535)), ("198.19.0.0/16", (1024, 60_000))):
            peer = {"ipBlock": {"cidr": block, "except": excepted if block.startswith("198.18.") else []}}
            yield manifests.policy(
                f"{NAMESPACE}/outsiders-{ports[1]}",
                podSelector=server,
                ingress=[{"from": [peer], "ports": [{"protocol": "UDP", "port": ports[0], "endPort": ports[1]}]}],
            )

    def sources(self) -> tuple[str, ...]:
        """The sources: every pod, and the same number of addresses outside the cluster."""
        return (f"{pod_address(0)}-{pod_address(self.pods - 1)}", OUTSIDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangingCluster:
    """A large cluster in which every pod matters: its 110 local pods, the server included, admit all pods of a tier and a team.

    A change rewrites one file.
    """

    pods: int
    policies: int

    def bodies(self) -> Iterator[Body]:
        """All objects."""
        yield manifests.namespace(NAMESPACE, team=_TEAMS[0])
        yield manifests.pod(SERVER, NODE, app="server")
        for number in range(_LOCAL_PODS - 1):
            host = Host(name=f"{NAMESPACE}/local-{number}", addresses=(f"10.200.4.{number + 1}", f"fd00:200:4::{number + 1}"))
            yield manifests.pod(host, NODE, app=f"app-{number % 10}")
        for number in range(-(-self.pods // _PODS_PER_NAMESPACE)):
            yield manifests.namespace(_team_namespace(number), team=_TEAMS[number % len(_TEAMS)])
        for index in range(self.pods - _LOCAL_PODS):
            yield _pod(index, _team_namespace(index // _PODS_PER_NAMESPACE), tier=_TIERS[index % len(_TIERS)])
        for tier in _TIERS:
            yield self._local_policy(tier, port=PORT)
        for app in range(10):
            yield manifests.policy(
                f"{NAMESPACE}/app-{app}",
                podSelector={"matchLabels": {"app": f"app-{app}"}},
                ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": _TEAMS[app % len(_TEAMS)]}}}]}],
            )
        for index in range(self.policies - len(_TIERS) - 10):
            number = index % max(1, self.pods // _PODS_PER_NAMESPACE)
            yield manifests.policy(
                f"{_team_namespace(number)}/policy-{index}",
                podSelector={"matchLabels": {"tier": _TIERS[index % len(_TIERS)]}},
                ingress=[{"from": [{"podSelector": {"matchLabels": {"tier": _TIERS[(index + 1) % len(_TIERS)]}}}]}],
            )

    def pod_changes(self) -> Iterator[tuple[str, list[Body]]]:
        """Endless changes of pods: new pods on other nodes, changed labels, reused addresses; one change in ten concerns a local pod."""
        for number in count():
            index, turn = number % _CHANGING_PODS, number // _CHANGING_PODS
            local = index % 10 == 0
            address = f"10.200.{5 if local else 6}.{(index + turn) % _CHANGING_PODS + 1}"
            host = Host(name=f"{_team_namespace(0)}/changing-{index}", addresses=(address,))
            body = manifests.pod(host, NODE if local else _OTHER_NODES[0], tier=_TIERS[(index + turn) % len(_TIERS)])
            yield f"pod-{index:03}.json", [body]

    def policy_changes(self) -> Iterator[tuple[str, list[Body]]]:
        """Endless changes of a policy of the server, which admits its peers to another port each time. Others admit the senders."""
        for number in count(1):
            yield "policy.json", [self._local_policy("changing", port=PORT + number % 1000)]

    def _local_policy(self, tier: str, *, port: int) -> Body:
        selector = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": tier}}}
        return manifests.policy(
            f"{NAMESPACE}/open-to-{tier}",
            podSelector={"matchLabels": {"app": "server"}},
            ingress=[{"from": [selector], "ports": [{"protocol": "UDP", "port": port}]}],
        )

    def senders(self) -> tuple[str, ...]:
        """A few pods that may reach the server."""
        return tuple(pod_address(number) for number in range(_SENDERS))


def pod_address(index: int) -> str:
    """The address of a pod on another node."""
    return str(IPv4Address(_FIRST_POD + index))


def write(folder: Path, bodies: Iterable[Body]) -> None:
    """Put objects into a new folder, in a few large files."""
    folder.mkdir()
    remaining = iter(bodies)
    for number in count():
        part = list(islice(remaining, _OBJECTS_PER_FILE))
        if not part:
            break
        manifests.write(folder / f"objects-{number:03}.json", part)


def _pod(index: int, namespace: str, **labels: str) -> Body:
    host = Host(name=f"{namespace}/pod-{index}", addresses=(pod_address(index),))
    return manifests.pod(host, _OTHER_NODES[index % len(_OTHER_NODES)], **labels)


def _team_namespace(number: int) -> str:
    return f"team-{number:05}"
