"""Every recipe of `docs/tiers.md`, tried with real connections and asked of `netpolq explain`, in a cluster that has policies already."""

import socket

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import NamedTuple

import pytest
import yaml

from loadtest.testbed import manifests
from loadtest.testbed.box import CHECKOUT, Box, Host
from loadtest.testbed.manifests import Body, policy
from loadtest.testbed.probe import Outcome, Probe
from tests.demo import reasons
from tests.support.cluster import Cluster, running
from tests.support.four_pods import LIMIT_S, receives_nothing

FOLDER = CHECKOUT / "config/recipes"

_PORTS = (("http", 8080), ("metrics", 9100))
_POD_NAMES = (
    "kube-system/dns",
    "monitoring/prometheus",
    "monitoring/grafana",
    "shop/web",
    "shop/db",
    "cart/web",
    "blog/web",
)
NODE = Host(name="node", addresses=("10.80.0.1", "fd80::1"), serves=(("TCP", 10250),))
CONTROL_PLANE = Host(name="control-plane", addresses=("10.80.0.2", "fd80::2"), serves=(("TCP", 6443), ("TCP", 10250)))
METADATA = Host(name="metadata", addresses=("169.254.169.254", "fd00:ec2::254"), serves=(("TCP", 80), ("TCP", 53), ("UDP", 53)))
OUTSIDE = Host(name="outside", addresses=("198.51.100.7", "2001:db8:ffff::7"), serves=(("TCP", 443),))
PODS = tuple(
    Host(name=name, addresses=(f"10.80.1.{end}", f"fd80::1:{end}"), serves=tuple(("TCP", port) for _, port in _PORTS))
    for end, name in enumerate(_POD_NAMES, 1)
)
HOSTS = (*PODS, CONTROL_PLANE, METADATA, OUTSIDE)
SOURCES = (*PODS, NODE, OUTSIDE)
API_SERVICE = "10.96.0.1"


def _node(host: Host, **labels: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": host.name, "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in host.addresses]},
    }


def _pod(host: Host) -> Body:
    ports = [{"name": name, "containerPort": port} for name, port in _PORTS]
    body = manifests.pod(host, NODE, app=host.name.partition("/")[2])
    return {**body, "spec": {"nodeName": NODE.name, "containers": [{"name": "main", "image": "echo", "ports": ports}]}}


CLUSTER_BODIES = (
    manifests.namespace("kube-system"),
    manifests.namespace("monitoring", **{"api-access": "allowed"}),
    manifests.namespace("shop", tenant="red"),
    manifests.namespace("cart", tenant="red"),
    manifests.namespace("blog", tenant="blue"),
    _node(NODE),
    _node(CONTROL_PLANE, **{"node-role.kubernetes.io/control-plane": ""}),
    *map(_pod, PODS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe, the policies that exist beside it, and what is denied then.

    `denied`: pairs of a line `FROM -> TO [PROBES]` (patterns of hosts) and the policy that denies it, empty for an exception; later
    pairs win. What no line matches is allowed. A node always reaches its pods.
    """

    name: str
    existing: tuple[Body, ...] = ()
    denied: tuple[tuple[str, str], ...]


ALLOW_ALL = policy("shop/allow-all", policyTypes=["Ingress", "Egress"], ingress=[{}], egress=[{}])

RECIPES = (
    Recipe(
        name="deny-metadata",
        existing=(ALLOW_ALL,),
        denied=(("*/* -> metadata TCP/80,ICMP", "deny-metadata"),),
    ),
    Recipe(
        name="isolate-namespaces",
        denied=(
            ("*/* -> */*", "isolate-namespaces"),
            ("*/*,outside -> shop/*", "shop/same-namespace"),
            ("shop/* -> shop/*", ""),
            ("*/* -> kube-system/*", ""),
        ),
    ),
    Recipe(
        name="monitoring",
        existing=(
            policy("shop/deny-all", policyTypes=["Ingress"]),
            policy("monitoring/deny-all", policyTypes=["Ingress", "Egress"]),
        ),
        denied=(
            ("* -> shop/*", "shop/deny-all"),
            ("* -> monitoring/*", "monitoring/deny-all"),
            ("monitoring/* -> *", "monitoring/deny-all"),
            ("monitoring/prometheus -> */* TCP/9100", ""),
        ),
    ),
    Recipe(
        name="protect-control-plane",
        existing=(
            policy(
                "monitoring/grafana",
                podSelector={"matchLabels": {"app": "grafana"}},
                policyTypes=["Egress"],
                egress=[{"to": [{"namespaceSelector": {}}]}],
            ),
        ),
        denied=(
            ("*/* -> control-plane", "protect-control-plane"),
            ("kube-system/* -> control-plane", ""),
            ("monitoring/prometheus -> control-plane TCP/6443", ""),
            ("monitoring/grafana -> control-plane TCP/6443", "monitoring/grafana"),
            ("monitoring/grafana -> metadata,outside,node", "monitoring/grafana"),
        ),
    ),
    Recipe(  # no name is learned here, so its addresses stay closed
        name="allow-names",
        denied=(("shop/* -> metadata,outside,control-plane,node", "allow-names"),),
    ),
    Recipe(
        name="tenants",
        existing=(ALLOW_ALL,),
        denied=(
            ("blog/* -> shop/*,cart/*", "tenant-red"),
            ("shop/*,cart/* -> blog/*", "tenant-blue"),
        ),
    ),
)


class Attempt(NamedTuple):
    """`denied_by`: the policy that must deny it, or empty."""

    probe: Probe
    denied_by: str


def attempts(recipe: Recipe) -> Iterator[Attempt]:
    """Every service of every host from every pod, the node and outside, over IPv4 and IPv6."""
    for source, destination in product(SOURCES, (NODE, *HOSTS)):
        if source is not destination:
            for (protocol, port), address in product((*destination.serves, ("ICMP", 0)), destination.addresses):
                service = f"{protocol}/{port}" if port else protocol
                probe = Probe(source.name, address, protocol, port)
                yield Attempt(probe, _denied_by(recipe, source.name, destination.name, service))


def _denied_by(recipe: Recipe, source: str, destination: str, service: str) -> str:
    found = ""
    for line, denied_by in recipe.denied:
        sources, _, destinations, *services = line.split()
        if (
            _matches(source, sources)
            and _matches(destination, destinations)
            and (not services or service in services[0].split(","))
        ):
            found = denied_by
    return "" if source == NODE.name else found


def _matches(host: str, patterns: str) -> bool:
    return any(fnmatchcase(host, pattern) for pattern in patterns.split(","))


def recipe_bodies(name: str) -> list[Body]:
    """The objects of a recipe's file."""
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One agent for all recipes. The node translates the Service of the API server, as kube-proxy does."""
    with Box(node=NODE, hosts=HOSTS) as box, running(box, CLUSTER_BODIES, "--workers", "2", "--fail-open=false") as started:
        box.nft(
            "table ip service { chain prerouting { type nat hook prerouting priority dstnat; "
            f"ip daddr {API_SERVICE} tcp dport 443 dnat to {CONTROL_PLANE.address(4)}:6443; }}; }}"
        )
        yield started


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_denies_what_its_page_says_and_nothing_else(cluster: Cluster, recipe: Recipe) -> None:
    cluster.apply([*recipe.existing, *recipe_bodies(recipe.name)])
    wanted = list(attempts(recipe))

    results = cluster.box.probe([attempt.probe for attempt in wanted])
    assert cluster.agent.manifests is not None
    answers = reasons.explain(cluster.box, cluster.agent.manifests, results)

    assert cluster.agent.status()["rejected"] == []
    wrong = [
        f"{probe.source} -> {probe.destination} {probe.protocol}/{probe.port}: {result.outcome}, explained: {answer['policy']}"
        for (probe, denied_by), result, answer in zip(wanted, results, answers, strict=True)
        if (result.outcome, answer["policy"]) != ((Outcome.TIMEOUT, denied_by) if denied_by else (Outcome.REACHED, None))
    ]
    assert not wrong, "\n".join(wrong[:20])


def test_the_service_of_the_api_server_counts_as_its_node(cluster: Cluster) -> None:
    cluster.apply(recipe_bodies("protect-control-plane"))

    results = cluster.box.probe([Probe(pod.name, API_SERVICE, "TCP", 443) for pod in PODS])

    allowed = {result.probe.source for result in results if result.reached}
    assert allowed == {"kube-system/dns", "monitoring/prometheus", "monitoring/grafana"}


def test_a_recipe_also_cuts_established_connections(cluster: Cluster) -> None:
    cluster.apply([])
    with (
        cluster.box.inside("shop/web", lambda: socket.create_connection((METADATA.address(4), 80), LIMIT_S)) as denied,
        cluster.box.inside("shop/web", lambda: socket.create_connection((METADATA.address(4), 53), LIMIT_S)) as left_alone,
    ):
        assert _is_answered(denied)
        assert _is_answered(left_alone)

        cluster.apply(recipe_bodies("deny-metadata"))
        cluster.agent.wait_until("connections are evaluated again", lambda: _evaluated(cluster))

        denied.send(b"x")
        assert receives_nothing(denied)
        assert _is_answered(left_alone)


def _is_answered(connection: socket.socket) -> bool:
    connection.send(b"x")
    return connection.recv(1) == b"x"


def _evaluated(cluster: Cluster) -> bool:
    status = cluster.agent.status()
    return status["strict_mode"]["done_version"] >= status["snapshot_version"]


def test_every_recipe_is_tried() -> None:
    assert sorted(recipe.name for recipe in RECIPES) == sorted(path.stem for path in FOLDER.iterdir())
