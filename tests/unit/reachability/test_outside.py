"""The addresses that represent the outside."""

from netpolq.addresses import format_address
from netpolq.reachability.outside import outside_addresses
from tests.support.clusters import store_of
from tests.support.random_selectors import Body


def policy(*blocks: Body) -> Body:
    spec: Body = {"podSelector": {}, "egress": [{"to": [{"ipBlock": block} for block in blocks]}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "x", "name": "p"},
        "spec": spec,
    }


def pod(*addresses: str) -> Body:
    metadata = {"namespace": "x", "name": f"pod-{addresses[0].replace(':', '-')}"}
    status = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}, "status": status}


def outside(*bodies: Body) -> list[str]:
    return list(map(format_address, outside_addresses((store_of(bodies),))))


def test_there_is_an_address_for_each_family_of_pods() -> None:
    assert outside(pod("10.0.0.1")) == ["203.0.113.1"]
    assert outside(pod("fd00::1", "10.0.0.1")) == ["203.0.113.1", "2001:db8::1"]
    assert outside() == []


def test_no_block_and_no_exception_has_it() -> None:
    everything_but: Body = {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24", "10.0.0.0/8"]}
    assert outside(pod("10.0.0.1"), policy(everything_but, {"cidr": "198.51.100.0/24"})) == ["192.0.2.1"]


def test_an_address_beside_a_block_is_free_where_the_preferred_ones_are_not() -> None:
    blocks: list[Body] = [
        {"cidr": "128.0.0.0/1"},
        {"cidr": "0.0.0.0/5"},
        {"cidr": "16.0.0.0/4"},
        {"cidr": "32.0.0.0/3"},
        {"cidr": "64.0.0.0/2"},
    ]
    assert outside(pod("10.0.0.1"), policy(*blocks)) == ["8.0.0.0"]


def test_where_blocks_leave_no_address_free_one_in_few_of_them_represents_the_outside() -> None:
    blocks: list[Body] = [{"cidr": "128.0.0.0/1"}, {"cidr": "0.0.0.0/1"}, {"cidr": "192.0.0.0/2"}, {"cidr": "128.0.0.0/8"}]
    assert outside(pod("10.0.0.1"), policy(*blocks)) == ["129.0.0.0"]


def test_it_is_no_address_of_a_pod() -> None:
    assert outside(pod("203.0.113.1")) == ["198.51.100.1"]
