"""The running agent on real packets: what passes, what is queued, and what stays when it leaves."""

import socket
import sys

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import NamedTuple

import pytest

from tests.support import manifests
from tests.support.box import Box, Host
from tests.support.cluster import Cluster, running
from tests.support.manifests import Body, policy
from tests.support.probe import Outcome, Probe

pytestmark = pytest.mark.netns

SERVED = tuple(product(("TCP", "UDP", "SCTP"), (80, 81)))
ATTEMPTS = (*SERVED, ("ICMP", 0))
NODE = Host(name="node", addresses=("10.79.0.1", "fd79::1"), serves=SERVED)
PODS = tuple(
    Host(name=f"x/{name}", addresses=(f"10.79.1.{end}", f"fd79::1:{end}"), serves=SERVED) for end, name in enumerate("abcd", 1)
)
OUTSIDE = Host(name="outside", addresses=("192.0.2.7", "2001:db8::7"), serves=SERVED)
SERVICE = {4: "10.96.0.1", 6: "fd96::1"}
CLUSTER_BODIES = (manifests.namespace("x"), *(manifests.pod(host, NODE, pod=host.name[-1]) for host in PODS))
LIMIT_S = 20.0
SILENCE_S = 0.5

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@contextmanager
def cluster_with(*flags: str) -> Iterator[Cluster]:
    with Box(node=NODE, hosts=(*PODS, OUTSIDE)) as box, running(box, CLUSTER_BODIES, *flags) as started:
        yield started


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_with("--workers", "2", "--no-fanout", "--fail-open=false") as started:
        yield started


def pods(*names: str) -> Body:
    """A selector of pods by name."""
    return {"matchExpressions": [{"key": "pod", "operator": "In", "values": list(names)}]}


def ingress(*rules: Body) -> Body:
    """A policy for pod a's ingress."""
    return policy("x/ingress", podSelector=pods("a"), policyTypes=["Ingress"], ingress=list(rules))


def egress(*rules: Body) -> Body:
    """A policy for pod b's egress."""
    return policy("x/egress", podSelector=pods("b"), policyTypes=["Egress"], egress=list(rules))


def reached(cluster: Cluster, source: str, destination: str, family: int = 4) -> set[tuple[str, int]]:
    """Which protocols and ports get through. Whatever does not must have met silence."""
    address = cluster.box.address(destination, family)
    return _reached(cluster, [Probe(source, address, protocol, port) for protocol, port in ATTEMPTS])


def _reached(cluster: Cluster, probes: list[Probe]) -> set[tuple[str, int]]:
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
        """Send from the server to the client, whether the server ever heard of it or not."""
        self.server.sendto(data, (self._address_of_client, self.client.getsockname()[1]))

    @property
    def _address_of_client(self) -> str:
        return str(self.client.getsockname()[0])


@contextmanager
def talk(cluster: Cluster, source: str, destination: str, family: int, service: str | None = None) -> Iterator[Talk]:
    """A flow to port 9000 of a host, or to a service address that leads there. Nobody answers by himself."""
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


def hears_nothing(end: socket.socket) -> bool:
    end.settimeout(SILENCE_S)
    try:
        end.recv(64)
    except TimeoutError:
        return True
    finally:
        end.settimeout(LIMIT_S)
    return False


@FAMILIES
def test_without_policies_everything_passes_and_nothing_is_queued(cluster: Cluster, family: int) -> None:
    cluster.apply([])
    before = cluster.agent.packets_queued()
    assert reached(cluster, "x/b", "x/a", family) == EVERYTHING
    assert reached(cluster, "outside", "x/a", family) == EVERYTHING
    assert cluster.agent.packets_queued() == before


@FAMILIES
@pytest.mark.parametrize(("protocol", "port"), SERVED)
def test_a_port_of_a_protocol_is_admitted_and_nothing_else(cluster: Cluster, protocol: str, port: int, family: int) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}], "ports": [{"protocol": protocol, "port": port}]})])
    assert reached(cluster, "x/b", "x/a", family) == {(protocol, port)}
    assert reached(cluster, "x/c", "x/a", family) == set()


@FAMILIES
def test_icmp_is_admitted_by_a_rule_without_ports_only(cluster: Cluster, family: int) -> None:
    every_port = [{"protocol": protocol} for protocol in ("TCP", "UDP", "SCTP")]
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]}, {"from": [{"podSelector": pods("c")}], "ports": every_port})])
    assert reached(cluster, "x/b", "x/a", family) == EVERYTHING
    assert reached(cluster, "x/c", "x/a", family) == EVERYTHING - {("ICMP", 0)}


@FAMILIES
def test_pods_that_no_policy_selects_are_left_alone(cluster: Cluster, family: int) -> None:
    cluster.apply([ingress(), egress()])
    before = cluster.agent.packets_queued()
    assert reached(cluster, "x/c", "x/d", family) == EVERYTHING
    assert reached(cluster, "x/d", "outside", family) == EVERYTHING
    assert cluster.agent.packets_queued() == before


@FAMILIES
def test_a_flow_within_the_node_needs_both_its_ends(cluster: Cluster, family: int) -> None:
    to_a, from_b = {"to": [{"podSelector": pods("a")}]}, {"from": [{"podSelector": pods("b")}]}
    for policies, expected in (
        ([ingress(), egress()], set()),
        ([ingress(from_b), egress()], set()),
        ([ingress(), egress(to_a)], set()),
        ([ingress(from_b), egress(to_a)], EVERYTHING),
    ):
        cluster.apply(policies)
        assert reached(cluster, "x/b", "x/a", family) == expected


def test_a_flow_within_the_node_is_queued_once_for_both_its_ends(cluster: Cluster) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]}), egress({"to": [{"podSelector": pods("a")}]})])
    before = cluster.agent.packets_queued()
    assert len(_reached(cluster, [Probe("x/b", cluster.box.address("x/a", 4), "TCP", 80)])) == 1
    assert cluster.agent.packets_queued() == before + 1


@FAMILIES
def test_a_client_outside_is_judged_by_its_address(cluster: Cluster, family: int) -> None:
    blocks = [{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"ipBlock": {"cidr": "2001:db8::/32"}}]
    cluster.apply([ingress({"from": blocks, "ports": [{"port": 80}]})])
    assert reached(cluster, "outside", "x/a", family) == {("TCP", 80)}
    assert reached(cluster, "x/b", "x/a", family) == set()


@FAMILIES
def test_only_the_first_packet_of_a_tcp_connection_is_queued(cluster: Cluster, family: int) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]})])
    before = cluster.agent.packets_queued()
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with cluster.box.inside("x/b", lambda: socket.socket(kind, socket.SOCK_STREAM)) as connection:
        connection.settimeout(LIMIT_S)
        connection.connect((cluster.box.address("x/a", family), 80))
        for number in range(50):
            connection.sendall(bytes([number]))
            assert connection.recv(1) == bytes([number])
    assert cluster.agent.packets_queued() == before + 1


@FAMILIES
def test_only_the_first_of_many_datagrams_without_an_answer_is_queued(cluster: Cluster, family: int) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]})])
    before = cluster.agent.packets_queued()
    with talk(cluster, "x/b", "x/a", family) as flow:
        for number in range(100):
            flow.ask(bytes([number]))
            assert flow.server.recv(1) == bytes([number])
    assert cluster.agent.packets_queued() == before + 1


def test_every_packet_of_a_denied_flow_is_judged(cluster: Cluster) -> None:
    cluster.apply([ingress()])
    before = cluster.agent.packets_queued()
    with talk(cluster, "x/b", "x/a", 4) as flow:
        for _ in range(20):
            flow.ask(b"no")
        assert hears_nothing(flow.server)
    assert cluster.agent.packets_queued() == before + 20


@FAMILIES
def test_a_reply_does_not_admit_a_connection_again_that_is_denied_now(cluster: Cluster, family: int) -> None:
    """The connection is older than the policy. Taken for new flows, its replies would be allowed: nothing isolates a's egress."""
    cluster.apply([])
    with talk(cluster, "x/b", "x/a", family) as flow:
        flow.ask(b"before")
        assert flow.server.recv(64) == b"before"
        cluster.apply([ingress()])
        flow.answer(b"reply")
        assert hears_nothing(flow.client)
        flow.ask(b"after")
        assert hears_nothing(flow.server)
        assert reached(cluster, "x/a", "x/b", family) == EVERYTHING


@FAMILIES
def test_replies_of_an_older_connection_pass_when_a_policy_allows_it(cluster: Cluster, family: int) -> None:
    """Both ends are isolated for the first time while the flow is under way; the next packet happens to be a reply."""
    cluster.apply([])
    with talk(cluster, "x/b", "x/a", family) as flow:
        flow.ask(b"before")
        assert flow.server.recv(64) == b"before"
        port: Body = {"protocol": "UDP", "port": 9000}
        cluster.apply(
            [
                ingress({"from": [{"podSelector": pods("b")}], "ports": [port]}),
                egress({"to": [{"podSelector": pods("a")}], "ports": [port]}),
            ]
        )
        flow.answer(b"reply")
        assert flow.client.recv(64) == b"reply"
        flow.ask(b"after")
        assert flow.server.recv(64) == b"after"


@FAMILIES
def test_the_node_reaches_isolated_pods(cluster: Cluster, family: int) -> None:
    cluster.apply([policy("x/isolate", policyTypes=["Ingress", "Egress"])])
    assert reached(cluster, "node", "x/a", family) == EVERYTHING
    assert reached(cluster, "outside", "x/a", family) == set()


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_user_of_the_node_without_privileges_reaches_isolated_pods(cluster: Cluster, protocol: str, family: int) -> None:
    """As kubelet's probes and host services that do not run as root do."""
    cluster.apply([policy("x/isolate", policyTypes=["Ingress", "Egress"])])
    script = f"exec 3<>/dev/{protocol}/{cluster.box.address('x/a', family)}/80 && printf hello >&3 && head -c 5 <&3"
    done = cluster.box.run("node", ["setpriv", "--reuid=65534", "--clear-groups", "timeout", "5", "bash", "-c", script])
    assert (done.stdout, done.stderr) == ("hello", "")


@FAMILIES
def test_what_a_pod_sends_to_its_own_node_is_judged(cluster: Cluster, family: int) -> None:
    cluster.apply([egress()])
    assert reached(cluster, "x/b", "node", family) == set()
    assert reached(cluster, "x/c", "node", family) == EVERYTHING
    blocks = [{"ipBlock": {"cidr": "10.79.0.1/32"}}, {"ipBlock": {"cidr": "fd79::1/128"}}]
    cluster.apply([egress({"to": blocks, "ports": [{"port": 80}]})])
    assert reached(cluster, "x/b", "node", family) == {("TCP", 80)}


def test_address_pairs_are_spread_over_both_queues(cluster: Cluster) -> None:
    """Without CPU fanout the kernel chooses the queue by the pair of addresses."""
    cluster.apply([policy("x/open", policyTypes=["Ingress"], ingress=[{}])])
    before = {queue.queue_num: queue.id_sequence for queue in cluster.agent.queues()}
    probes = [
        Probe(source.name, destination.address(family), "TCP", 80)
        for source, destination, family in product((*PODS, OUTSIDE), PODS, (4, 6))
        if source is not destination
    ]
    assert all(result.reached for result in cluster.box.probe(probes))
    queued = {queue.queue_num: queue.id_sequence - before[queue.queue_num] for queue in cluster.agent.queues()}
    assert set(queued) == {100, 101}
    assert all(queued.values())
    assert sum(queued.values()) == len(probes)


@FAMILIES
def test_an_edit_is_in_force_for_new_connections(cluster: Cluster, family: int) -> None:
    for port in (80, 81, 80):
        cluster.apply([ingress({"ports": [{"port": port}, {"protocol": "UDP", "port": port}]})])
        assert reached(cluster, "x/b", "x/a", family) == {("TCP", port), ("UDP", port)}
    cluster.apply([])
    assert reached(cluster, "x/b", "x/a", family) == EVERYTHING


@contextmanager
def service(cluster: Cluster, *extra: str) -> Iterator[None]:
    """A service address for pod a, port by port, as kube-proxy would make it; in a table that the agent knows nothing of."""
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
def test_a_service_address_is_judged_as_the_pod_behind_it(cluster: Cluster, extra: tuple[str, ...], family: int) -> None:
    """Both ends count as they are: the service's address admits nobody, and a masquerading node hides nobody."""
    addresses = [{"ipBlock": {"cidr": f"{address}/{32 if version == 4 else 128}"}} for version, address in SERVICE.items()]
    with service(cluster, *extra):
        probes = {
            source: [Probe(source, SERVICE[family], protocol, port) for protocol, port in ATTEMPTS] for source in ("x/b", "x/c")
        }
        cluster.apply([ingress({"from": [{"podSelector": pods("b")}], "ports": [{"port": 80}, {"protocol": "UDP", "port": 81}]})])
        assert _reached(cluster, probes["x/b"]) == {("TCP", 80), ("UDP", 81)}
        assert _reached(cluster, probes["x/c"]) == set()
        cluster.apply([egress({"to": addresses})])
        assert _reached(cluster, probes["x/b"]) == set()
        cluster.apply([egress({"to": [{"podSelector": pods("a")}]})])
        assert _reached(cluster, probes["x/b"]) == EVERYTHING


@FAMILIES
@SERVICES
def test_replies_from_behind_a_service_address_are_judged_by_the_real_pair(
    cluster: Cluster, extra: tuple[str, ...], family: int
) -> None:
    cluster.apply([])
    with service(cluster, *extra), talk(cluster, "x/b", "x/a", family, SERVICE[family]) as flow:
        flow.ask(b"before")
        data, peer = flow.server.recvfrom(64)
        assert data == b"before"
        cluster.apply([ingress({"from": [{"podSelector": pods("c")}]})])
        flow.server.sendto(b"denied", peer)
        assert hears_nothing(flow.client)
        cluster.apply([ingress({"from": [{"podSelector": pods("b")}]})])
        flow.server.sendto(b"allowed", peer)
        assert flow.client.recv(64) == b"allowed"


@FAMILIES
def test_a_masqueraded_client_is_judged_by_its_own_address_on_the_way_out(cluster: Cluster, family: int) -> None:
    masquerade = "add rule inet service postrouting ip daddr 192.0.2.0/24 masquerade"
    masquerade_v6 = "add rule inet service postrouting ip6 daddr 2001:db8::/32 masquerade"
    with service(cluster, masquerade, masquerade_v6):
        cluster.apply([egress({"ports": [{"port": 80}]})])
        assert reached(cluster, "x/b", "outside", family) == {("TCP", 80)}
        assert reached(cluster, "x/c", "outside", family) == EVERYTHING
        with talk(cluster, "x/b", "outside", family) as flow:
            flow.ask(b"one way")
            assert hears_nothing(flow.server)


def _admits_port_80() -> Body:
    return ingress({"ports": [{"port": 80}]})


def test_fail_closed_lets_nothing_new_through_once_the_agent_is_gone() -> None:
    with cluster_with("--workers", "1", "--fail-open=false") as cluster:
        cluster.apply([_admits_port_80()])
        assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}
        assert cluster.agent.stop() == 0
        for family in (4, 6):
            assert reached(cluster, "x/b", "x/a", family) == set()
            assert reached(cluster, "node", "x/a", family) == EVERYTHING
            assert reached(cluster, "x/b", "x/c", family) == EVERYTHING


def test_fail_closed_keeps_what_was_accepted_when_the_agent_is_gone() -> None:
    with cluster_with("--workers", "1", "--fail-open=false") as cluster:
        cluster.apply([ingress({"ports": [{"protocol": "UDP", "port": 9000}]})])
        with talk(cluster, "x/b", "x/a", 4) as flow:
            flow.ask(b"before")
            assert flow.server.recv(64) == b"before"
            assert cluster.agent.stop() == 0
            flow.ask(b"after")
            assert flow.server.recv(64) == b"after"


def test_fail_open_lets_everything_through_once_the_agent_is_gone_and_counts_it() -> None:
    with cluster_with("--workers", "1") as cluster:
        cluster.apply([_admits_port_80()])
        assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}
        assert cluster.agent.stop() == 0
        for family in (4, 6):
            assert reached(cluster, "x/b", "x/a", family) == EVERYTHING
        counted = cluster.box.run("node", ["nft", "list", "counter", "inet", "netpolq", "unjudged"]).stdout
        assert "packets 0 " not in counted


@pytest.mark.parametrize("flag", ["--fail-open=true", "--fail-open=false"])
def test_a_restarted_agent_goes_on_where_the_last_one_stopped(flag: str) -> None:
    with cluster_with("--workers", "1", flag) as cluster:
        cluster.apply([_admits_port_80()])
        assert cluster.agent.stop() == 0
        cluster.agent.start()
        assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}


def test_cleanup_removes_the_rules_the_run_dir_and_nothing_else() -> None:
    with cluster_with("--workers", "1", "--fail-open=false") as cluster:
        cluster.apply([_admits_port_80()])
        before = cluster.box.run("node", ["nft", "list", "tables"]).stdout
        assert "table inet netpolq" in before
        assert cluster.agent.stop() == 0
        assert cluster.agent.cleanup()
        after = cluster.box.run("node", ["nft", "list", "tables"]).stdout
        assert after == before.replace("table inet netpolq\n", "")
        assert not cluster.agent.run_dir.exists()
        assert reached(cluster, "x/b", "x/a") == EVERYTHING
        assert cluster.agent.cleanup() is not None


def test_cleanup_is_refused_while_the_agent_runs(cluster: Cluster) -> None:
    cluster.apply([_admits_port_80()])
    argv = [sys.executable, "-m", "netpolq", "cleanup", "--run-dir", str(cluster.agent.run_dir)]
    done = cluster.box.run("node", argv)
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 1
    assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}
