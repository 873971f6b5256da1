"""The addresses that have an entry in the snapshot even if no selector matches them: those of local pods, and of pods in known ranges."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from netpolq.addresses import AddressKey, format_address, parse_address
from netpolq.hold.ranges import PodRange, collapse
from netpolq.model import Node, Object, Pod, Update
from netpolq.policy.compiler import Compiler
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.store import Store
from tests.support.compiled import Compilation

HERE, ELSEWHERE = "here", "elsewhere"


def pod(name: str, *addresses: str, node: str = HERE) -> Pod:
    return Pod(namespace="shop", name=name, labels={"app": name}, ips=tuple(map(parse_address, addresses)), node_name=node)


class Cluster:
    """A store and a compiler. No policy exists, so no selector matches anything."""

    def __init__(self, *objects: Object, ranges: Iterable[str] = ()) -> None:
        self.compilation = Compilation(is_local=lambda pod: pod.node_name == HERE, known_ranges=blocks(*ranges))
        self.compiler = self.compilation.compiler
        self.seen: set[AddressKey] = set()
        self.change(*objects)

    def change(self, *objects: Object, deleted: Iterable[Object] = ()) -> set[str]:
        """The addresses that an update names as changed."""
        gone = tuple(item.key for item in deleted)
        self.compilation.store.apply(Update(upserted=objects, deleted=gone, ignored={}, observed_ns=0))
        return self.changed()

    def changed(self) -> set[str]:
        self.seen |= self.compilation.store.everything().addresses
        self.compilation.update()
        changed = self.compiler.take_changed()
        assert self.compiler.renamed == changed, "no decision changes"
        return set(map(format_address, changed))

    def known(self) -> set[str]:
        """The known addresses, which are those with an entry in the snapshot."""
        view = self.compilation.view()
        assert {address for address in self.seen if view.identity(address)} == self.compiler.known
        return set(map(format_address, self.compiler.known))


def blocks(*texts: str) -> tuple[PodRange, ...]:
    return tuple(map(ip_network, texts))


def test_every_address_of_a_local_pod_is_known() -> None:
    web, other = pod("web", "10.0.0.1", "fd00::1"), pod("other", "10.0.0.2", node=ELSEWHERE)
    cluster = Cluster()
    assert cluster.change(web, other) == {"10.0.0.1", "fd00::1"}
    assert cluster.known() == {"10.0.0.1", "fd00::1"}
    assert cluster.change(replace(web, ips=web.ips[1:])) == {"10.0.0.1"}
    assert cluster.known() == {"fd00::1"}
    assert cluster.change(deleted=[web]) == {"fd00::1"}
    assert cluster.known() == set()


def test_a_pod_that_moves_to_another_node_is_known_where_it_is() -> None:
    cluster = Cluster(pod("web", "10.0.0.1"))
    assert cluster.change(pod("web", "10.0.0.1", node=ELSEWHERE)) == {"10.0.0.1"}
    assert cluster.known() == set()
    assert cluster.change(pod("web", "10.0.0.1")) == {"10.0.0.1"}
    assert cluster.known() == {"10.0.0.1"}


def test_an_address_that_pods_hand_on_stays_known_and_names_nothing() -> None:
    first, second = pod("first", "10.0.0.1"), pod("second", "10.0.0.1")
    cluster = Cluster(first)
    assert cluster.change(second) == set()
    assert cluster.change(deleted=[first]) == set()
    assert cluster.known() == {"10.0.0.1"}


@pytest.mark.parametrize("completed", [False, True])
def test_an_address_that_a_local_pod_reports_is_known_even_if_a_pod_of_another_node_owns_it(completed: bool) -> None:
    owner = replace(pod("owner", "10.0.0.1", node=ELSEWHERE), created="2026-01-02T00:00:00Z")
    local = replace(pod("local", "10.0.0.1"), created="2026-01-01T00:00:00Z", completed=completed)
    cluster = Cluster(owner, local)
    assert cluster.known() == (set() if completed else {"10.0.0.1"})
    cluster.change(deleted=[local])
    assert cluster.known() == set()


def test_pods_and_nodes_in_the_known_ranges_are_known_wherever_they_run() -> None:
    pods = [pod(f"pod-{number}", f"10.0.{number}.1", f"fd00:0:0:{number}::1", node=ELSEWHERE) for number in range(4)]
    node = Node(name="n", labels={}, addresses=(parse_address("10.0.2.9"), parse_address("10.0.3.9")))
    cluster = Cluster(*pods, node, ranges=["10.0.1.0/24", "10.0.2.0/24", "fd00:0:0:3::/64"])
    assert cluster.known() == {"10.0.1.1", "10.0.2.1", "10.0.2.9", "fd00:0:0:3::1"}
    assert cluster.change(deleted=pods[1:]) == {"10.0.1.1", "10.0.2.1", "fd00:0:0:3::1"}
    assert cluster.known() == {"10.0.2.9"}


def test_a_learned_name_makes_no_address_of_the_known_ranges_known() -> None:
    """A worker would take it for the address of a pod, and the pod's own selectors would be missing."""
    cluster = Cluster(ranges=["10.0.0.0/24"])
    address = parse_address("10.0.0.1")
    cluster.seen.add(address)
    cluster.compilation.store.set_names(address, frozenset({"example.com"}))
    assert cluster.changed() == set()
    assert cluster.known() == set()
    assert cluster.change(pod("web", "10.0.0.1", node=ELSEWHERE)) == {"10.0.0.1"}
    assert cluster.known() == {"10.0.0.1"}


def test_ranges_that_change_make_addresses_known_and_unknown() -> None:
    pods = [pod(f"pod-{number}", f"10.0.{number}.1", node=HERE if number == 3 else ELSEWHERE) for number in range(4)]
    cluster = Cluster(*pods, ranges=["10.0.0.0/24", "10.0.1.0/24"])
    cluster.compiler.set_known_ranges(blocks("10.0.1.0/24", "10.0.2.0/23"))
    assert cluster.changed() == {"10.0.0.1", "10.0.2.1"}
    assert cluster.known() == {"10.0.1.1", "10.0.2.1", "10.0.3.1"}
    cluster.compiler.set_known_ranges(())
    assert cluster.changed() == {"10.0.1.1", "10.0.2.1"}
    assert cluster.known() == {"10.0.3.1"}


def test_a_snapshot_for_explanations_has_entries_for_all_pods() -> None:
    store = Store()
    store.apply(Update(upserted=(pod("web", "10.0.0.1"),), ignored={}, observed_ns=0))
    compiler = Compiler(store, is_local=lambda _pod: True)
    SnapshotBuilder().apply(compiler.everything(with_node_addresses=True))
    assert compiler.known == {parse_address("10.0.0.1")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0", True),
        ("10.0.1.255", True),
        ("10.0.2.0", False),
        ("9.255.255.255", False),
        ("255.255.255.255", False),
        ("10.0.3.7", True),
        ("10.0.3.8", False),
        ("fd00::", True),
        ("fd00::ffff:ffff:ffff:ffff", True),
        ("fd00:0:0:1::", False),
        ("fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", False),
        ("::", False),
        ("::a00:1", False),
    ],
)
def test_an_address_lies_in_one_of_the_ranges_or_in_none(text: str, expected: bool) -> None:
    ranges = AddressRanges(collapse(blocks("10.0.1.0/24", "fd00::/64", "10.0.0.0/24", "10.0.3.7/32", "10.0.0.0/25")))
    assert (parse_address(text) in ranges) is expected
    assert parse_address(text) not in AddressRanges()
