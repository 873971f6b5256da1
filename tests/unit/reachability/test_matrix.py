"""Results of groups with many pods, of which only those are evaluated that policies distinguish."""

from ipaddress import IPv4Network

from netpolq.addresses import parse_address
from netpolq.enums import Direction, Protocol
from netpolq.model import IPBlock, LabelSelector, NamedPort, NetworkPolicy, Pod, PolicyPort, PolicyRule, Update
from netpolq.reachability.cluster import Cluster, Reach
from netpolq.reachability.grouping import By, groups_of, outside_group
from netpolq.reachability.matrix import matrix_of
from netpolq.reachability.outside import outside_addresses
from netpolq.reachability.ports import PortRange
from netpolq.store import Store

HTTP = PortRange(Protocol.TCP, 80, 80)


def pod(name: str, number: int, *ports: NamedPort) -> Pod:
    labels = {"app": name.partition("-")[0]}
    return Pod(namespace="x", name=name, labels=labels, ips=(parse_address(f"10.0.0.{number}"),), named_ports=ports)


def reach(source: str, destination: str, *objects: Pod | NetworkPolicy) -> Reach:
    store = Store()
    store.apply(Update(upserted=objects, ignored={}, observed_ns=0))
    groups = groups_of(store, By.WORKLOAD)
    matrix = matrix_of(Cluster(store), groups, outside_group(groups, outside_addresses((store,))), (HTTP,))
    return (matrix.cells[source, destination] or (Reach.ABSENT,))[0]


def ingress(rule: PolicyRule) -> NetworkPolicy:
    types = frozenset({Direction.INGRESS})
    return NetworkPolicy(namespace="x", name="p", pod_selector=LabelSelector(), policy_types=types, ingress=(rule,))


def test_an_address_in_a_block_differs_from_others_of_its_workload() -> None:
    """The last of many equal pods counts as much as the first."""
    pods = [pod(f"web-{number}", number) for number in range(1, 6)]
    block = ingress(PolicyRule(peers=(IPBlock(IPv4Network("10.0.0.5/32")),)))
    assert reach("x/web", "x/db", pod("db", 9), *pods, block) is Reach.SOME
    assert reach("x/web", "x/db", pod("db", 9), *pods[:4], block) is Reach.NONE


def test_a_named_port_differs_between_pods_of_a_workload() -> None:
    pods = [pod(f"db-{number}", number) for number in range(1, 5)]
    named = ingress(PolicyRule(ports=(PolicyPort(Protocol.TCP, "http"),)))
    with_port = pod("db-5", 5, NamedPort("http", Protocol.TCP, 80))
    assert reach("x/web", "x/db", pod("web", 9), *pods, with_port, named) is Reach.SOME
    assert reach("x/web", "x/db", pod("web", 9), *pods, named) is Reach.NONE


def test_equal_pods_of_a_workload_reach_each_other_only_where_policies_allow() -> None:
    """A pod and itself are no pair."""
    closed = ingress(PolicyRule(peers=()))
    assert reach("x/db", "x/db", pod("db-1", 1), pod("db-2", 2), closed) is Reach.NONE
    assert reach("x/db", "x/db", pod("db-1", 1), pod("db-2", 2)) is Reach.ALL
    assert reach("x/db", "x/db", pod("db", 1), closed) is Reach.ABSENT
