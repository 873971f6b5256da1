"""Answers to denied packets, with real sockets: the client learns at once that it was denied, directly or through a service address."""

import errno
import socket
import time

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.manifests import Body, policy
from netpolq.addresses import packed_address, parse_address
from netpolq.netlink.nftables import open_socket
from netpolq.netlink.original_destinations import original_destination
from netpolq_worker.worker.answer_limit import CLIENT_ANSWERS_PER_S, CLIENT_BURST
from tests.netns.test_service_addresses import MASQUERADE, PLAIN, SERVICE, admin_deny, service
from tests.support.cluster import Cluster
from tests.support.four_pods import CLUSTER_BODIES, LIMIT_S, NODE, PODS, SILENCE_S, cluster_with, pods

FAMILIES = pytest.mark.parametrize("family", [4, 6])
DIRECTIONS = pytest.mark.parametrize("direction", ["ingress", "egress"])
UDP_ERROR = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
"""What Linux makes of the ICMP errors. Source: icmp_err_convert in net/ipv4/icmp.c, tab_unreach in net/ipv6/icmp.c."""


@pytest.fixture(scope="module")
def rejecting() -> Iterator[Cluster]:
    flags = ("--workers", "1", "--fail-open=false", "--verdict-cache=off", "--deny-with=reject")
    with cluster_with(*flags) as started:
        yield started


def isolating(direction: str) -> Body:
    """Cuts the way from pod b to pod a, at one of the two."""
    of_pod = pods("a" if direction == "ingress" else "b")
    return policy(f"x/{direction}", podSelector=of_pod, policyTypes=[direction.capitalize()])


def annotated(body: Body, deny_with: str) -> Body:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return {**body, "metadata": {**metadata, "annotations": {"netpolq.io/deny-with": deny_with}}}


def opened(cluster: Cluster, pod: str, family: int, kind: int) -> socket.socket:
    opened = cluster.box.inside(pod, lambda: socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind))
    opened.settimeout(LIMIT_S)
    return opened


def tcp_error(cluster: Cluster, pod: str, address: str, port: int = 80) -> int:
    """The errno of a connect; 0: it succeeds. A time-out raises."""
    with opened(cluster, pod, 6 if ":" in address else 4, socket.SOCK_STREAM) as client:
        return errno_of(lambda: client.connect((address, port)))


def udp_error(cluster: Cluster, pod: str, address: str, port: int = 80) -> int:
    """The errno that a connected socket gets after a datagram; 0: an answer. A time-out raises."""
    with opened(cluster, pod, 6 if ":" in address else 4, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.send(b"x")
        return errno_of(lambda: client.recv(64))


def errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except TimeoutError:
        raise
    except OSError as error:
        return error.errno or -1
    return 0


def is_silent(cluster: Cluster, pod: str, address: str) -> bool:
    """Whether TCP and UDP clients learn nothing."""
    family = 6 if ":" in address else 4
    with opened(cluster, pod, family, socket.SOCK_STREAM) as tcp, opened(cluster, pod, family, socket.SOCK_DGRAM) as udp:
        udp.connect((address, 80))
        udp.send(b"x")
        for client in (tcp, udp):
            client.settimeout(SILENCE_S)
        return all(times_out(call) for call in (lambda: tcp.connect((address, 80)), lambda: udp.recv(64)))


def times_out(call: Callable[[], object]) -> bool:
    try:
        errno_of(call)
    except TimeoutError:
        return True
    return False


@FAMILIES
@DIRECTIONS
def test_a_denied_client_learns_it_at_once(rejecting: Cluster, family: int, direction: str) -> None:
    rejecting.apply([isolating(direction)])
    address = rejecting.box.address("x/a", family)
    assert tcp_error(rejecting, "x/b", address) == errno.ECONNREFUSED
    assert udp_error(rejecting, "x/b", address) == UDP_ERROR[family]
    other = "x/c" if direction == "egress" else "x/a"
    assert tcp_error(rejecting, other, rejecting.box.address("x/d", family)) == 0


@FAMILIES
@DIRECTIONS
@pytest.mark.parametrize("extra", [PLAIN, MASQUERADE], ids=["plain", "masqueraded"])
def test_a_client_of_a_service_gets_the_answer_from_the_address_of_the_service(
    rejecting: Cluster, family: int, direction: str, extra: tuple[str, ...]
) -> None:
    with service(rejecting, *extra):
        rejecting.apply([isolating(direction)])
        assert tcp_error(rejecting, "x/b", SERVICE[family]) == errno.ECONNREFUSED
        assert udp_error(rejecting, "x/b", SERVICE[family]) == UDP_ERROR[family]


@FAMILIES
def test_the_port_of_a_service_is_that_of_the_answer_too(rejecting: Cluster, family: int) -> None:
    kind = {4: "ip", 6: "ip6"}[family]
    to = {4: rejecting.box.address("x/a", 4), 6: f"[{rejecting.box.address('x/a', 6)}]"}[family]
    with service(rejecting):
        for protocol in ("tcp", "udp"):
            rejecting.box.nft(
                f"insert rule inet service prerouting {kind} daddr {SERVICE[family]} {protocol} dport 8080 dnat {kind} to {to}:80"
            )
        rejecting.apply([isolating("ingress")])
        assert tcp_error(rejecting, "x/b", SERVICE[family], 8080) == errno.ECONNREFUSED
        assert udp_error(rejecting, "x/b", SERVICE[family], 8080) == UDP_ERROR[family]


@FAMILIES
def test_the_kernel_notes_what_the_client_of_a_service_has_asked_for(rejecting: Cluster, family: int) -> None:
    """By protocol and both ends, and only for packets that it translates."""
    rejecting.apply([isolating("ingress")])
    client, pod = ((packed(rejecting.box.address(name, family)), port) for name, port in (("x/b", 7000), ("x/a", 80)))
    with service(rejecting), opened(rejecting, "x/b", family, socket.SOCK_STREAM) as asking:
        asking.bind((rejecting.box.address("x/b", family), 7000))
        assert errno_of(lambda: asking.connect((SERVICE[family], 80))) == errno.ECONNREFUSED
        assert tcp_error(rejecting, "x/c", rejecting.box.address("x/a", family)) == errno.ECONNREFUSED
        with rejecting.box.inside("node", open_socket) as netlink:
            assert original_destination(netlink, "netpolq", 6, client, pod) == (packed(SERVICE[family]), 80)
            for protocol, source, destination in ((17, client, pod), (6, (client[0], 7001), pod), (6, client, (pod[0], 81))):
                assert original_destination(netlink, "netpolq", protocol, source, destination) is None
            assert original_destination(netlink, "another", 6, client, pod) is None
        noted = rejecting.box.nft(f"list map inet netpolq originals_v{family}")
        assert f"{SERVICE[family]} . 80" in noted
        assert rejecting.box.address("x/c", family) not in noted


def packed(address: str) -> bytes:
    return packed_address(parse_address(address))


@FAMILIES
def test_a_pod_that_is_cut_from_itself_behind_a_service_gets_an_answer(rejecting: Cluster, family: int) -> None:
    with service(rejecting, *MASQUERADE):
        rejecting.apply([admin_deny("ingress", "from")])
        assert tcp_error(rejecting, "x/a", SERVICE[family]) == errno.ECONNREFUSED
        assert udp_error(rejecting, "x/a", SERVICE[family]) == UDP_ERROR[family]


@FAMILIES
def test_a_pod_that_may_not_reach_its_node_gets_an_answer(rejecting: Cluster, family: int) -> None:
    rejecting.apply([isolating("egress")])
    address = rejecting.box.address("node", family)
    assert tcp_error(rejecting, "x/b", address) == errno.ECONNREFUSED
    assert udp_error(rejecting, "x/b", address) == UDP_ERROR[family]


@FAMILIES
def test_clients_and_servers_outside_the_node_are_answered_for(rejecting: Cluster, family: int) -> None:
    rejecting.apply([isolating("ingress"), isolating("egress")])
    assert tcp_error(rejecting, "outside", rejecting.box.address("x/a", family)) == errno.ECONNREFUSED
    assert udp_error(rejecting, "outside", rejecting.box.address("x/a", family)) == UDP_ERROR[family]
    assert tcp_error(rejecting, "x/b", rejecting.box.address("outside", family)) == errno.ECONNREFUSED


@FAMILIES
def test_an_answer_reaches_a_client_that_is_isolated_itself(rejecting: Cluster, family: int) -> None:
    """The answer comes from the node: no policy of the client applies to it."""
    cut = policy("x/cut", podSelector={}, policyTypes=["Ingress", "Egress"])
    rejecting.apply([cut])
    assert tcp_error(rejecting, "x/b", rejecting.box.address("x/a", family)) == errno.ECONNREFUSED
    assert udp_error(rejecting, "x/b", rejecting.box.address("x/a", family)) == UDP_ERROR[family]


@FAMILIES
@pytest.mark.parametrize("through_service", [False, True])
def test_an_established_connection_that_is_now_denied_is_reset(rejecting: Cluster, family: int, through_service: bool) -> None:
    rejecting.apply([])
    with service(rejecting), opened(rejecting, "x/b", family, socket.SOCK_STREAM) as client:
        client.connect((SERVICE[family] if through_service else rejecting.box.address("x/a", family), 80))
        client.sendall(b"before")
        assert client.recv(64) == b"before"
        rejecting.apply([isolating("ingress")])
        assert resets(client)


def resets(client: socket.socket) -> bool:
    """Whether the connection is reset by a packet that the client sends. Strict mode follows a policy within a second."""
    deadline = time.monotonic() + LIMIT_S
    client.settimeout(SILENCE_S)
    while time.monotonic() < deadline:
        try:
            client.sendall(b"after")
            client.recv(64)
        except ConnectionResetError:
            return True
        except TimeoutError:
            continue
    return False


def test_annotations_change_the_answer_while_the_agent_runs() -> None:
    """With the default, nothing is answered and the ruleset notes no destinations until an annotation wants answers."""
    with cluster_with("--workers", "2", "--fail-open=false", "--verdict-cache=off") as cluster, service(cluster):
        address = cluster.box.address("x/a", 4)
        cluster.apply([isolating("ingress")])
        assert is_silent(cluster, "x/b", address)
        assert "originals_v4" not in cluster.box.nft("list table inet netpolq")
        cluster.apply([annotated(isolating("ingress"), "reject")])
        assert tcp_error(cluster, "x/b", address) == errno.ECONNREFUSED
        assert tcp_error(cluster, "x/b", SERVICE[4]) == errno.ECONNREFUSED
        shop, *others = CLUSTER_BODIES
        cluster.replace([annotated(shop, "reject"), *others, isolating("ingress")])
        assert udp_error(cluster, "x/b", SERVICE[4]) == UDP_ERROR[4]
        cluster.replace([annotated(shop, "reject"), *others, annotated(isolating("ingress"), "drop")])
        assert is_silent(cluster, "x/b", address)


def rejects(cluster: Cluster, outcome: str, protocol: str) -> int:
    """The counter. Workers write it a few times a second."""
    for line in cluster.agent.metrics().splitlines():
        if line.startswith("netpolq_rejects_total{") and f'"{outcome}"' in line and f'"{protocol}"' in line:
            return int(float(line.split()[-1]))
    return 0


def flood(cluster: Cluster, family: int, packets: int) -> float:
    """Send datagrams from pod b to pod a, from many ports. Returns the duration in seconds."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(opened(cluster, "x/b", family, socket.SOCK_DGRAM)) for _ in range(20)]
        for number in range(packets):
            try:
                clients[number % 20].sendto(b"x", (cluster.box.address("x/a", family), 80))
            except ConnectionError:
                continue
    return time.monotonic() - began_s


@FAMILIES
def test_a_flood_gets_a_bounded_number_of_answers(rejecting: Cluster, family: int) -> None:
    rejecting.apply([isolating("ingress")])
    before = [rejects(rejecting, outcome, "UDP") for outcome in ("sent", "limited")]
    queued = rejecting.agent.packets_queued()
    began_s = time.monotonic()
    flood(rejecting, family, 20_000)
    dropped = rejecting.agent.packets_queued() - queued

    def counts() -> list[int]:
        after = [rejects(rejecting, outcome, "UDP") for outcome in ("sent", "limited")]
        return [now - then for now, then in zip(after, before, strict=True)]

    rejecting.agent.wait_until("every denial is counted", lambda: sum(counts()) >= dropped)
    sent, limited = counts()
    assert CLIENT_BURST <= sent <= CLIENT_BURST + CLIENT_ANSWERS_PER_S * (time.monotonic() - began_s + 1)
    assert limited > 10 * sent


def test_with_the_verdict_cache_repeated_denials_are_answered_and_a_flood_ends_in_the_kernel() -> None:
    with cluster_with("--workers", "1", "--fail-open=false", "--verdict-cache=on", "--deny-with=reject") as cluster:
        cluster.apply([isolating("ingress")])
        address = cluster.box.address("x/a", 4)
        for _ in range(CLIENT_BURST // 2):
            assert tcp_error(cluster, "x/b", address) == errno.ECONNREFUSED
        assert cached_drops(cluster) == 0
        flood(cluster, 4, 2_000)
        cluster.agent.wait_until("the kernel drops", lambda: flood(cluster, 4, 100) > 0 and cached_drops(cluster) > 0)
        queued = cluster.agent.packets_queued()
        flood(cluster, 4, 2_000)
        assert cluster.agent.packets_queued() == queued
        assert tcp_error(cluster, "x/c", address) == errno.ECONNREFUSED, "only the client of the flood goes without answers"


def cached_drops(cluster: Cluster) -> int:
    """Denials in the kernel's verdict cache."""
    return cluster.box.nft("list set inet netpolq counted_closed_v4").count("expires")


@contextmanager
def cluster_of_capabilities(*names: str) -> Iterator[Cluster]:
    """A cluster whose agent has these capabilities and cannot gain others."""
    bounding_set = ",".join(["-all", *(f"+{name}" for name in names)])
    prefix = ("setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounding_set}", "--")
    with Box(node=NODE, hosts=PODS) as box:
        folder = box.directory / "manifests"
        folder.mkdir()
        manifests.write(folder / "all.json", CLUSTER_BODIES)
        flags = ("--workers", "2", "--fail-open=false", "--deny-with=reject")
        with Agent(box, folder, *flags, prefix=prefix) as agent:
            yield Cluster(box, agent, CLUSTER_BODIES)


def test_without_the_capability_the_agent_says_so_once_and_drops() -> None:
    with cluster_of_capabilities("net_admin") as cluster:
        cluster.apply([isolating("ingress")])
        assert is_silent(cluster, "x/b", cluster.box.address("x/a", 4))
        assert cluster.agent.log.read_text().count("has started without CAP_NET_RAW") == 1


def test_the_two_network_capabilities_suffice_for_answers() -> None:
    with cluster_of_capabilities("net_admin", "net_raw") as cluster, service(cluster):
        cluster.apply([isolating("ingress")])
        assert tcp_error(cluster, "x/b", SERVICE[4]) == errno.ECONNREFUSED
        assert tcp_error(cluster, "x/b", SERVICE[6]) == errno.ECONNREFUSED
