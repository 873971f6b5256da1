"""Which DNS servers are trusted."""

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import format_address, parse_address
from netpolq.model import Pod
from netpolq.names.resolvers import DnsService, name_servers, of_cluster

DNS_LABELS = {"k8s-app": "kube-dns", "pod-template-hash": "1"}


def pod(name: str, *addresses: str, namespace: str = "kube-system", completed: bool = False, **labels: str) -> Pod:
    ips = tuple(map(parse_address, addresses))
    return Pod(namespace=namespace, name=name, labels=labels or DNS_LABELS, ips=ips, completed=completed)


PODS = [
    pod("dns-1", "10.0.0.1", "fd00::1"),
    pod("dns-2", "10.0.0.2"),
    pod("done", "10.0.0.3", completed=True),
    pod("false", "10.0.0.4", namespace="tenant"),
    pod("core", "10.0.0.5", app="coredns"),
]


def found(*services: DnsService) -> list[str]:
    return [format_address(address) for address in of_cluster(services, PODS)]


def service(*cluster_ips: str, **selector: str) -> DnsService:
    return DnsService(selector, tuple(map(parse_address, cluster_ips)))


def test_the_pods_behind_the_services_and_their_addresses_are_trusted() -> None:
    """A label in another namespace does not count: tenants may set it."""
    assert found(service("10.96.0.10", app="coredns")) == ["10.96.0.10", "10.0.0.5"]
    assert found(service("10.96.0.10", **{"k8s-app": "kube-dns"}), service("fd00::a", app="coredns")) == [
        "10.96.0.10",
        "fd00::a",
        "10.0.0.1",
        "fd00::1",
        "10.0.0.2",
        "10.0.0.5",
    ]


def test_without_a_service_the_usual_label_counts() -> None:
    assert found() == ["10.0.0.1", "fd00::1", "10.0.0.2"]


def test_a_service_without_a_selector_selects_no_pods() -> None:
    assert found(service("10.96.0.10")) == ["10.96.0.10"]


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.53\nsearch example.com\noptions ndots:5\nnameserver 2001:db8::53\n", ["192.0.2.53", "2001:db8::53"]),
        ("  nameserver\t192.0.2.53  # comment", ["192.0.2.53"]),
        ("nameserver fe80::1%eth0\nnameserver 169.254.169.253", ["fe80::1", "169.254.169.253"]),
        ("nameserver 127.0.0.53\nnameserver ::1\nnameserver 0.0.0.0\nnameserver ::", []),
        ("#nameserver 192.0.2.53\n;nameserver 192.0.2.53\nnameservers 192.0.2.53\nnameserver\nnameserver x", []),
        ("".join(f"nameserver 192.0.2.{number}\n" for number in range(1, 30)), [f"192.0.2.{number}" for number in range(1, 17)]),
        ("", []),
    ],
)
def test_name_servers_of_a_node_are_those_that_a_pod_can_reach(text: str, servers: list[str]) -> None:
    assert [format_address(address) for address in name_servers(text)] == servers


@given(st.text() | st.lists(st.sampled_from(["nameserver", " ", "\n", "1.1.1.1", "::1%", "\x00", "%", "fe80::"])).map("".join))
def test_any_text_is_read(text: str) -> None:
    assert len(list(name_servers(text))) <= 16
