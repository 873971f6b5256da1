"""The port ranges that policies distinguish, and their texts."""

from netpolq.enums import Protocol
from netpolq.reachability.ports import OTHER_PROTOCOLS, PortRange, distinguished, joined, port_fields, ports_text
from tests.support.clusters import store_of
from tests.support.random_selectors import Body

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP


def policy(*ports: Body) -> Body:
    spec: Body = {"podSelector": {}, "ingress": [{"ports": list(ports)}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "x", "name": "p"},
        "spec": spec,
    }


def pod(*ports: Body) -> Body:
    spec: Body = {"containers": [{"name": "main", "ports": list(ports)}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "x", "name": "a"}, "spec": spec}


def test_without_policies_each_protocol_is_one_range() -> None:
    store = store_of([pod({"name": "http", "containerPort": 80})])
    assert distinguished((store,)) == (*(PortRange(protocol, 1, 65535) for protocol in Protocol), OTHER_PROTOCOLS)


def test_ranges_begin_and_end_where_an_entry_does() -> None:
    store = store_of([policy({"port": 80}, {"port": 8000, "endPort": 9000}, {"port": 65535}, {"port": 1})])
    assert [(first, last) for _protocol, first, last in distinguished((store,), TCP)] == [
        *((1, 1), (2, 79), (80, 80), (81, 7999), (8000, 9000), (9001, 65534), (65535, 65535))
    ]
    assert distinguished((store,), UDP) == (PortRange(UDP, 1, 65535),)


def test_a_named_port_is_its_number_at_every_pod() -> None:
    """Only of the protocol of the entry, and only names that a policy has."""
    ports = [{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "dns", "containerPort": 5353}]
    store = store_of([policy({"port": "dns", "protocol": "UDP"}), pod(*ports, {"name": "http", "containerPort": 80})])
    assert distinguished((store,), UDP) == (PortRange(UDP, 1, 52), PortRange(UDP, 53, 53), PortRange(UDP, 54, 65535))
    assert len(distinguished((store,), TCP)) == 1


def test_ranges_of_two_stores_are_divided_by_both() -> None:
    stores = store_of([policy({"port": 80})]), store_of([policy({"port": 81})])
    assert [item.first for item in distinguished(stores, TCP)] == [1, 80, 81, 82]


def test_adjacent_ranges_are_joined() -> None:
    ranges = [OTHER_PROTOCOLS, PortRange(UDP, 53, 53), PortRange(TCP, 80, 80), PortRange(TCP, 1, 79), PortRange(TCP, 90, 90)]
    assert joined(ranges) == (PortRange(TCP, 1, 80), PortRange(TCP, 90, 90), PortRange(UDP, 53, 53), OTHER_PROTOCOLS)


def test_a_text_names_protocols_and_ports() -> None:
    ranges = [PortRange(TCP, 80, 80), PortRange(TCP, 8000, 9000), PortRange(UDP, 1, 65535), OTHER_PROTOCOLS]
    assert ports_text(ranges) == "TCP 80, 8000-9000; UDP; other protocols"
    assert ports_text([PortRange(SCTP, 1, 65534)]) == "SCTP 1-65534"
    assert ports_text([]) == ""


def test_fields_are_those_of_a_policy() -> None:
    assert port_fields([PortRange(TCP, 80, 90), OTHER_PROTOCOLS]) == [
        {"protocol": "TCP", "port": 80, "endPort": 90},
        {"protocol": "other", "port": None, "endPort": None},
    ]
