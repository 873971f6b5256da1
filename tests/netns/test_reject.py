"""Answers to denied packets, with real sockets: the client learns at once that it was denied, directly or through a service address."""

import errno
import socket
import time

from collections.abc import Callable, Iterator

import pytest

from loadtest.testbed.manifests import Body, policy
from tests.netns.test_service_addresses import MASQUERADE, PLAIN, SERVICE, admin_deny, service
from tests.support.cluster import Cluster
from tests.support.four_pods import CLUSTER_BODIES, LIMIT_S, SILENCE_S, cluster_with, pods

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
