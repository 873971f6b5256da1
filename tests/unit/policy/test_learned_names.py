"""Learned names of addresses and the domain names of policies: what the compiler derives from them, and what each change costs."""

import time

from collections.abc import Iterable

import pytest

from netpolq import store
from netpolq.addresses import AddressKey, format_address, parse_address
from netpolq.enums import Action, Direction, Protocol, Tier, Verdict
from netpolq.model import (
    ClusterNetworkPolicy,
    ClusterRule,
    DomainPeer,
    LabelSelector,
    Node,
    NodePeer,
    Object,
    Peer,
    Pod,
    PodPeer,
    PolicyPort,
    Update,
)
from netpolq.policy.compiler import Compiler
from netpolq.policy.peers import DomainSelector
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from netpolq.snapshot.extended_reader import ExtendedReader
from netpolq.snapshot.ir import CompiledDelta
from tests.support.compiled import Compilation

HERE = "here"
EVERY_POD = PodPeer(LabelSelector(), LabelSelector())
WEB = Pod(namespace="shop", name="web", labels={"app": "web"}, ips=(parse_address("10.0.0.1"),), node_name=HERE)
DB = Pod(namespace="shop", name="db", labels={"app": "db"}, ips=(parse_address("10.0.0.2"),), node_name="elsewhere")
SERVER = parse_address("192.0.2.1")
OTHER = parse_address("2001:db8::2")


def policy(*rules: ClusterRule, name: str = "names", tier: Tier = Tier.ADMIN, direction: Direction = Direction.EGRESS) -> Object:
    egress, ingress = (rules, ()) if direction is Direction.EGRESS else ((), rules)
    return ClusterNetworkPolicy(name=name, tier=tier, priority=1, subject=EVERY_POD, egress=egress, ingress=ingress)


def accept(*peers: Peer | str) -> ClusterRule:
    return ClusterRule(Action.ACCEPT, tuple(DomainPeer(peer) if isinstance(peer, str) else peer for peer in peers))


DENY = ClusterRule(Action.DENY)


class Cluster:
    """A store with a compiler and a snapshot builder behind it."""

    def __init__(self, *objects: Object) -> None:
        self.compilation = Compilation(is_local=lambda pod: pod.node_name == HERE)
        self.compiler: Compiler = self.compilation.compiler
        self.change(*objects)

    def change(self, *objects: Object, deleted: Iterable[Object] = ()) -> set[str]:
        """The addresses that an update names as changed."""
        gone = tuple(item.key for item in deleted)
        self.compilation.store.apply(Update(upserted=objects, deleted=gone, ignored={}, observed_ns=0))
        return self.changed()

    def learn(self, address: AddressKey, *names: str) -> set[str]:
        """The addresses that new names of an address name as changed."""
        self.compilation.store.set_names(address, frozenset(names))
        return self.changed()

    def changed(self) -> set[str]:
        self.compilation.update()
        return set(map(format_address, self.compiler.take_changed()))

    @property
    def renamed(self) -> set[str]:
        return set(map(format_address, self.compiler.renamed))

    def allows(self, address: AddressKey) -> bool:
        return self.compilation.view().evaluate(WEB.ips[0], address, 6, 443).verdict is Verdict.ACCEPT

    def selectors(self, address: AddressKey) -> set[object]:
        return set(self.compilation.meaning().identities[address][0])


def test_an_address_is_allowed_while_it_has_a_name_that_a_rule_matches() -> None:
    cluster = Cluster(WEB, DB, policy(accept("example.com", "*.example.org"), DENY))
    assert not cluster.allows(SERVER)
    for names in (["example.com"], ["a.b.example.org"], ["other.com", "www.example.org"], ["EXAMPLE.com."]):
        assert cluster.learn(SERVER, *names) == {"192.0.2.1"}
        assert cluster.allows(SERVER)
        assert not cluster.allows(OTHER)
        assert cluster.learn(SERVER) == {"192.0.2.1"}
        assert not cluster.allows(SERVER)
    assert not cluster.learn(SERVER, "www.example.com", "example.org")
    assert not cluster.allows(SERVER)


def test_a_name_beside_another_that_matches_the_same_changes_nothing() -> None:
    cluster = Cluster(WEB, policy(accept("*.example.com"), DENY))
    cluster.learn(SERVER, "a.example.com")
    assert not cluster.learn(SERVER, "a.example.com", "b.example.com")
    assert not cluster.learn(SERVER, "b.example.com")
    assert cluster.allows(SERVER)


def test_an_address_has_the_selectors_of_its_pod_its_nodes_and_its_names() -> None:
    node = Node(name="n", labels={"a": "b"}, addresses=DB.ips)
    peers = accept(EVERY_POD, NodePeer(LabelSelector()), "db.example.com")
    cluster = Cluster(WEB, DB, node, policy(peers, DENY))
    cluster.learn(DB.ips[0], "db.example.com")
    assert len(cluster.selectors(DB.ips[0])) == 3
    cluster.change(deleted=[node])
    assert len(cluster.selectors(DB.ips[0])) == 2
    cluster.change(deleted=[DB])
    assert cluster.selectors(DB.ips[0]) == {DomainSelector("db.example.com")}
    assert cluster.learn(DB.ips[0]) == {"10.0.0.2"}
    assert DB.ips[0] not in cluster.compilation.meaning().identities


def test_a_pattern_that_comes_into_use_matches_the_names_that_are_known_already() -> None:
    cluster = Cluster(WEB, policy(accept("example.com"), DENY))
    cluster.learn(SERVER, "www.example.org")
    cluster.learn(OTHER, "example.com", "example.org")
    assert cluster.change(policy(accept("*.example.org"), DENY)) == {"10.0.0.1"}
    assert cluster.allows(SERVER)
    assert not cluster.allows(OTHER)
    assert cluster.change(policy(accept("*.org"), DENY)) == {"10.0.0.1"}
    assert cluster.allows(SERVER)
    assert cluster.allows(OTHER)
    cluster.learn(SERVER)
    cluster.change(policy(accept("*.example.org", "example.org"), DENY))
    assert set(cluster.compilation.meaning().identities) == {*WEB.ips, OTHER}, "an address without names is forgotten"
    cluster.change(policy(DENY))
    assert set(cluster.compilation.meaning().identities) == set(WEB.ips)


def test_an_update_of_the_source_does_not_touch_names() -> None:
    cluster = Cluster(WEB, policy(accept("example.com"), DENY))
    learned = cluster.compilation.store
    cluster.learn(SERVER, "example.com")
    for item in (WEB, DB):
        cluster.change(item)
        cluster.change(deleted=[item])
    assert learned.names == {SERVER: {"example.com"}}
    cluster.learn(SERVER)
    assert learned.names == {}
    cluster.learn(SERVER)
    assert not learned.take_dirty_set()


def test_names_are_reported_as_renamed_unless_something_else_changed_too() -> None:
    cluster = Cluster(WEB, DB, policy(accept("example.com", EVERY_POD), DENY))
    cluster.learn(SERVER, "example.com")
    assert cluster.renamed == {"192.0.2.1"}
    cluster.learn(SERVER)
    assert cluster.renamed == {"192.0.2.1"}
    cluster.compilation.store.set_names(DB.ips[0], frozenset({"example.com"}))
    assert cluster.change(deleted=[DB]) == {"10.0.0.2"}
    assert cluster.renamed == set(), "the pod is another one, too"
    assert cluster.change(policy(accept("example.com"), DENY)) == {"10.0.0.1"}
    assert cluster.renamed == set()
    assert cluster.learn(DB.ips[0]) == {"10.0.0.2"}
    assert cluster.renamed == {"10.0.0.2"}
    cluster.changed()
    assert cluster.renamed == set()


def test_a_change_in_two_steps_is_no_change_of_names_alone() -> None:
    cluster = Cluster(WEB, DB, policy(accept("example.com", EVERY_POD), DENY))
    cluster.compilation.store.set_names(DB.ips[0], frozenset({"example.com"}))
    cluster.compilation.update()
    cluster.compilation.store.apply(Update(deleted=(DB.key,), ignored={}, observed_ns=0))
    assert cluster.changed() == {"10.0.0.2"}
    assert cluster.renamed == set()


def test_local_pods_with_domain_names_in_their_egress_policies_are_asking() -> None:
    first = Pod(
        namespace="ops", name="first", labels={}, ips=(parse_address("10.0.0.7"), parse_address("fd00::7")), node_name=HERE
    )
    of_ops = PodPeer(LabelSelector(), LabelSelector())
    cluster = Cluster(WEB, DB, policy(accept(of_ops), DENY))
    assert cluster.compiler.asking == set()
    with_names = policy(DENY, accept("example.com"), tier=Tier.BASELINE, name="below")
    cluster.change(with_names)
    assert cluster.compiler.asking == set(WEB.ips)
    cluster.change(first)
    assert cluster.compiler.asking == {*WEB.ips, *first.ips}
    cluster.change(deleted=[WEB])
    assert cluster.compiler.asking == set(first.ips)
    cluster.change(deleted=[with_names])
    assert cluster.compiler.asking == set()


def test_a_name_is_matched_while_a_policy_of_a_local_pod_has_a_pattern_for_it() -> None:
    cluster = Cluster(DB, policy(accept("example.com", "*.example.org"), DENY))
    assert not cluster.compiler.matches_name("example.com"), "no local pod needs it"
    cluster.change(WEB)
    assert cluster.compiler.matches_name("example.com")
    assert cluster.compiler.matches_name("a.b.example.org")
    assert not cluster.compiler.matches_name("example.org")
    assert not cluster.compiler.matches_name("www.example.com")
    cluster.change(policy(accept("example.org"), DENY))
    assert cluster.compiler.matches_name("example.org")
    assert not cluster.compiler.matches_name("example.com")
    cluster.change(deleted=[WEB])
    assert not cluster.compiler.matches_name("example.org")


def former(cluster: Cluster) -> dict[str, set[object]]:
    """The selectors of former names by address."""
    selectors = cluster.compiler.selectors
    found = cluster.compiler.former
    return {format_address(address): {selectors[number] for number in numbers} for address, numbers in found.items()}


def goes_on(cluster: Cluster, address: AddressKey) -> bool:
    """Whether strict mode leaves an established connection to an address alone."""
    reader = ExtendedReader(cluster.compilation.encoded(), cluster.compiler.former)
    evaluator = CachedEvaluator(reader, lambda evaluation, _on_every_port: evaluation.verdict)
    verdicts = {evaluator.answer(WEB.ips[0], address, 6, 443) for _ in range(3)}
    verdicts.add(reader.evaluate(WEB.ips[0], address, 6, 443).verdict)
    (verdict,) = verdicts
    return verdict is Verdict.ACCEPT


def test_an_address_that_loses_its_name_keeps_established_connections_and_gets_no_new_ones() -> None:
    rules = policy(accept("example.com", EVERY_POD), DENY)
    cluster = Cluster(WEB, DB, rules)
    for address in (SERVER, DB.ips[0]):
        cluster.learn(address, "example.com", "other.test")
        assert goes_on(cluster, address)
    cluster.learn(SERVER)
    assert not cluster.allows(SERVER)
    assert goes_on(cluster, SERVER)
    assert not goes_on(cluster, OTHER)
    assert former(cluster) == {"192.0.2.1": {DomainSelector("example.com")}}
    cluster.change(policy(ClusterRule(Action.DENY, (NodePeer(LabelSelector()),)), name="unrelated"))
    assert goes_on(cluster, SERVER), "a change of other policies does not cut it"


@pytest.mark.parametrize(
    "withdrawn",
    [
        policy(accept("example.org"), DENY),
        policy(DENY, accept("example.com")),
        policy(DENY),
        policy(ClusterRule(Action.ACCEPT, (DomainPeer("example.com"),), (PolicyPort(Protocol.TCP, 80),)), DENY),
    ],
)
def test_a_policy_that_withdraws_the_rule_of_a_former_name_cuts_established_connections(withdrawn: Object) -> None:
    cluster = Cluster(WEB, policy(accept("example.com"), DENY))
    cluster.learn(SERVER, "example.com")
    cluster.learn(SERVER)
    assert goes_on(cluster, SERVER)
    assert cluster.change(withdrawn) == {"10.0.0.1"}
    assert cluster.renamed == set(), "so strict mode looks at the connections of the pod"
    assert not goes_on(cluster, SERVER)
    cluster.change(policy(accept("*.com", "example.com"), DENY))
    assert goes_on(cluster, SERVER), "what is allowed again in time goes on"


def test_a_former_name_that_comes_back_is_a_name_again() -> None:
    cluster = Cluster(WEB, policy(accept("example.com", "*.example.com"), DENY))
    cluster.learn(SERVER, "example.com")
    cluster.learn(SERVER, "a.example.com")
    assert former(cluster) == {"192.0.2.1": {DomainSelector("example.com")}}
    cluster.learn(SERVER, "b.example.com", "example.com")
    assert former(cluster) == {"192.0.2.1": {DomainSelector("*.example.com")}}
    assert cluster.compilation.store.former_names == {SERVER: ("a.example.com",)}


def test_selectors_of_former_names_are_those_in_use() -> None:
    """A number that goes to another selector would accept connections by that."""
    cluster = Cluster(WEB, policy(accept("example.com"), DENY))
    cluster.learn(SERVER, "example.com")
    cluster.learn(SERVER)
    cluster.change(policy(DENY))
    assert former(cluster) == {}
    cluster.change(policy(accept(EVERY_POD), DENY))
    assert former(cluster) == {}
    assert not goes_on(cluster, SERVER)
    cluster.change(policy(accept("*.com"), DENY))
    assert former(cluster) == {"192.0.2.1": {DomainSelector("*.com")}}


def test_former_names_are_bounded_and_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_FORMER_ADDRESSES", 2)
    monkeypatch.setattr(store, "MAX_FORMER_NAMES", 3)
    cluster = Cluster(WEB, policy(accept("*.example.com"), DENY))
    for number in range(5):
        cluster.learn(SERVER, f"{number}.example.com")
    assert cluster.compilation.store.former_names == {SERVER: ("3.example.com", "2.example.com", "1.example.com")}
    for address in (OTHER, DB.ips[0]):
        cluster.learn(address, "a.example.com")
        cluster.learn(SERVER, "4.example.com", "5.example.com")
        cluster.learn(address)
    assert former(cluster).keys() == {"2001:db8::2", "10.0.0.2"}
    assert cluster.compilation.store.former_names.keys() == {OTHER, DB.ips[0]}


@pytest.mark.parametrize("patterns", [1, 1000])
def test_an_address_that_is_learned_among_ten_thousand_changes_one_value_and_compares_no_patterns(patterns: int) -> None:
    in_use = [f"*.d{number}.example.com" for number in range(patterns)]
    rules = [accept(*in_use[start : start + 25]) for start in range(0, patterns, 25)]
    cluster = Cluster(
        WEB, *(policy(*rules[start : start + 25], name=f"p{start}") for start in range(0, len(rules), 25)), policy(DENY)
    )
    for number in range(10_000):
        address = parse_address(f"192.0.{number >> 8}.{number & 255}")
        cluster.compilation.store.set_names(address, frozenset({f"host-{number}.d{number % patterns}.example.com"}))
    cluster.changed()

    started = time.perf_counter()
    cluster.compilation.store.set_names(OTHER, frozenset({"host.d0.example.com"}))
    steps = list(cluster.compiler.steps())
    took = time.perf_counter() - started

    delta = merged(steps)
    assert delta.addresses.keys() == {OTHER}
    assert len(delta.identities) == 1
    assert (delta.tiers, delta.programs, delta.endpoints) == ({}, {}, {})
    assert cluster.compiler.take_changed() == {OTHER}
    print(f"{patterns} patterns: {took * 1e6:.0f} µs")


def merged(deltas: Iterable[CompiledDelta]) -> CompiledDelta:
    (delta,) = (delta for delta in deltas if delta.addresses or delta.tiers or delta.programs)
    return delta
