"""Address translation by others: a service's address stands for the pod behind it, a masqueraded client for itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtest.testbed.manifests import Body, policy
from loadtest.testbed.probe import Probe
from tests.support.cluster import Cluster
from tests.support.four_pods import ATTEMPTS, EVERYTHING, egress, ingress, pods, reached, receives_nothing, talk, through

SERVICE = {4: "10.96.0.1", 6: "fd96::1"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@contextmanager
def service(cluster: Cluster, *extra: str) -> Iterator[None]:
    """A service address for pod a, port by port, as kube-proxy would make it; in a table outside the agent."""
    lines = ["add table inet service"]
    lines += ["add chain inet service prerouting { type nat hook prerouting priority dstnat; }"]
    lines += ["add chain inet service postrouting { type nat hook postrouting priority srcnat; }"]
    lines += [
        f"add rule inet service prerouting {kind} daddr {SERVICE[family]} dnat {kind} to {cluster.box.address('x/a', family)}"
        for kind, family in (("ip", 4), ("ip6", 6))
    ]
    cluster.box.nft("\n".join([*lines, *extra]))
    try:
        yield
    finally:
        cluster.box.nft("delete table inet service")


PLAIN = ()
MASQUERADE = ("add rule inet service postrouting ct status dnat masquerade",)
SERVICES = pytest.mark.parametrize("extra", [PLAIN, MASQUERADE], ids=["plain", "masqueraded"])


@FAMILIES
@SERVICES
def test_a_service_address_is_evaluated_as_the_pod_behind_it(cluster: Cluster, extra: tuple[str, ...], family: int) -> None:
    """Both ends count as they are: the service's address admits no client, and a masquerading node hides none."""
    addresses = [{"ipBlock": {"cidr": f"{address}/{32 if version == 4 else 128}"}} for version, address in SERVICE.items()]
    with service(cluster, *extra):
        probes = {
            source: [Probe(source, SERVICE[family], protocol, port) for protocol, port in ATTEMPTS] for source in ("x/b", "x/c")
        }
        cluster.apply([ingress({"from": [{"podSelector": pods("b")}], "ports": [{"port": 80}, {"protocol": "UDP", "port": 81}]})])
        assert through(cluster, probes["x/b"]) == {("TCP", 80), ("UDP", 81)}
        assert through(cluster, probes["x/c"]) == set()
        cluster.apply([egress({"to": addresses})])
        assert through(cluster, probes["x/b"]) == set()
        cluster.apply([egress({"to": [{"podSelector": pods("a")}]})])
        assert through(cluster, probes["x/b"]) == EVERYTHING


@FAMILIES
@SERVICES
def test_replies_from_behind_a_service_address_are_evaluated_by_the_real_pair(
    cluster: Cluster, extra: tuple[str, ...], family: int
) -> None:
    cluster.apply([])
    with service(cluster, *extra), talk(cluster, "x/b", "x/a", family, SERVICE[family]) as flow:
        flow.ask(b"before")
        data, peer = flow.server.recvfrom(64)
        assert data == b"before"
        cluster.apply([ingress({"from": [{"podSelector": pods("c")}]})])
        flow.server.sendto(b"denied", peer)
        assert receives_nothing(flow.client)
        cluster.apply([ingress({"from": [{"podSelector": pods("b")}]})])
        flow.server.sendto(b"allowed", peer)
        assert flow.client.recv(64) == b"allowed"


@FAMILIES
def test_a_masqueraded_client_is_evaluated_by_its_own_address_on_the_way_out(cluster: Cluster, family: int) -> None:
    masquerade = "add rule inet service postrouting ip daddr 192.0.2.0/24 masquerade"
    masquerade_v6 = "add rule inet service postrouting ip6 daddr 2001:db8::/32 masquerade"
    with service(cluster, masquerade, masquerade_v6):
        cluster.apply([egress({"ports": [{"port": 80}]})])
        assert reached(cluster, "x/b", "outside", family) == {("TCP", 80)}
        assert reached(cluster, "x/c", "outside", family) == EVERYTHING
        with talk(cluster, "x/b", "outside", family) as flow:
            flow.ask(b"one way")
            assert receives_nothing(flow.server)


def admin_deny(direction: str, peers: str) -> Body:
    """A policy of the Admin tier that denies pod a everything to or from the pods named a."""
    rule: Body = {
        "action": "Deny",
        "name": "not to itself",
        peers: [{"pods": {"namespaceSelector": {}, "podSelector": pods("a")}}],
    }
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "not-to-itself"},
        "spec": {
            "tier": "Admin",
            "priority": 10,
            "subject": {"pods": {"namespaceSelector": {}, "podSelector": pods("a")}},
            direction: [rule],
        },
    }


@FAMILIES
def test_only_cluster_wide_policies_cut_a_pod_from_itself_behind_a_service_address(cluster: Cluster, family: int) -> None:
    """The same denials leave the direct way alone: what a pod sends to its own address never leaves the pod."""
    with service(cluster, *MASQUERADE):
        via_service = [Probe("x/a", SERVICE[family], protocol, port) for protocol, port in ATTEMPTS]
        cluster.apply([])
        assert through(cluster, via_service) == EVERYTHING
        isolated = policy("x/isolated", podSelector=pods("a"), policyTypes=["Ingress", "Egress"])
        cluster.apply([isolated])
        assert through(cluster, via_service) == EVERYTHING
        for direction, peers in (("egress", "to"), ("ingress", "from")):
            for others in ([], [isolated]):
                cluster.apply([*others, admin_deny(direction, peers)])
                assert through(cluster, via_service) == set()
                assert reached(cluster, "x/a", "x/a", family) == EVERYTHING
