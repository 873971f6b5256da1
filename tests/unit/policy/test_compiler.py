"""The addresses that the compiler reports as changed for each event, and the cost of an event."""

import time

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import (
    NAMESPACE_NAME_LABEL,
    LabelSelector,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Object,
    Pod,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Update,
)
from netpolq.policy import identity_update, peer_classes
from netpolq.policy.selectors import matches
from netpolq.store import Store
from tests.support.compiled import Compilation

HERE = "here"
EVERY_POD = LabelSelector()


def selecting(**labels: str) -> LabelSelector:
    return LabelSelector(tuple(Requirement(key, SelectorOperator.IN, (value,)) for key, value in sorted(labels.items())))


def pod(name: str, *addresses: str, namespace: str = "shop", node: str = HERE, **labels: str) -> Pod:
    keys = tuple(parse_address(address) for address in addresses)
    return Pod(namespace=namespace, name=name, labels=labels, ips=keys, node_name=node)


def policy(name: str, selected: LabelSelector, *rules: PolicyRule) -> NetworkPolicy:
    return NetworkPolicy(
        namespace="shop", name=name, pod_selector=selected, policy_types=frozenset({Direction.INGRESS}), ingress=rules
    )


def admitting(peer: LabelSelector, *ports: PolicyPort, namespaces: LabelSelector | None = None) -> PolicyRule:
    return PolicyRule((PodPeer(namespaces, peer),), ports or None)


def tcp(port: int | str) -> PolicyPort:
    return PolicyPort(Protocol.TCP, port)


class Cluster:
    """A store with a compiler and a snapshot builder behind it."""

    def __init__(self, *objects: Object) -> None:
        self.store = Store()
        self.compilation = Compilation(self.store, is_local=lambda pod: pod.node_name == HERE)
        self.compiler = self.compilation.compiler
        self.change(*objects)

    def change(self, *objects: Object, deleted: Iterable[Object] = ()) -> set[AddressKey]:
        """The addresses that an update names as changed."""
        gone = tuple(item.key for item in deleted)
        self.store.apply(Update(upserted=objects, deleted=gone, ignored={}, observed_ns=time.monotonic_ns()))
        self.compilation.update()
        return set(self.compiler.take_changed())

    def is_touched(self) -> bool:
        """Whether there is anything to publish since this was last asked."""
        touched = self.compilation.builder.is_touched
        self.compilation.encoded()
        return touched


def keys(*addresses: str) -> set[AddressKey]:
    return {parse_address(address) for address in addresses}


WEB = pod("web", "10.0.0.1", "fd00::1", app="web")
OTHER = pod("other", "10.0.0.2", app="other")
CLIENT = pod("client", "10.0.0.3", node="elsewhere", app="client")
STRANGER = pod("stranger", "10.0.0.4", node="elsewhere", app="stranger")
RULE = admitting(selecting(app="client"), tcp(80))
POLICY = policy("web", selecting(app="web"), RULE)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(WEB, OTHER, CLIENT, STRANGER, POLICY)


def test_a_pod_that_comes_goes_or_changes_names_its_addresses_alone(cluster: Cluster) -> None:
    second = pod("client-2", "10.0.0.9", "fd00::9", node="elsewhere", app="client")
    assert cluster.change(second) == keys("10.0.0.9", "fd00::9")
    assert cluster.change(replace(second, labels={"app": "stranger"})) == keys("10.0.0.9", "fd00::9")
    assert cluster.change(replace(second, ips=second.ips[:1])) == keys("10.0.0.9")
    assert cluster.change(deleted=[second]) == keys("10.0.0.9")


def test_a_pod_that_no_selector_in_use_tells_from_an_outsider_names_nothing(cluster: Cluster) -> None:
    cluster.is_touched()
    assert not cluster.change(pod("stranger-2", "10.0.0.10", node="elsewhere", app="stranger"))
    assert not cluster.change(replace(STRANGER, labels={"app": "stranger", "release": "2"}))
    assert not cluster.change(deleted=[STRANGER])
    assert not cluster.is_touched()


def test_an_address_that_goes_to_another_pod_of_the_same_kind_is_no_change(cluster: Cluster) -> None:
    heir = pod("client-2", "10.0.0.3", node="elsewhere", app="client")
    assert not cluster.change(heir, deleted=[CLIENT])


def test_a_local_pod_that_becomes_isolated_names_its_addresses(cluster: Cluster) -> None:
    assert cluster.change(replace(OTHER, labels={"app": "web"})) == keys("10.0.0.2")
    assert cluster.compiler.isolated[Direction.INGRESS] == keys("10.0.0.1", "fd00::1", "10.0.0.2")


def test_a_policy_names_the_local_pods_for_which_it_decides_something_else(cluster: Cluster) -> None:
    wider = admitting(selecting(app="client"), tcp(80), tcp(443))
    assert cluster.change(replace(POLICY, ingress=(wider,))) == set(WEB.ips)
    assert cluster.change(policy("other", selecting(app="other"))) == set(OTHER.ips)
    assert cluster.change(deleted=[POLICY]) == set(WEB.ips)


def test_a_change_of_the_deciding_rule_names_the_pod_and_an_equal_policy_names_nothing(cluster: Cluster) -> None:
    """Answers carry the rule that decides, so an answer by another rule is another answer."""
    assert not cluster.change(replace(POLICY))
    first = policy("a-first", selecting(app="web"), RULE)
    assert cluster.change(first) == set(WEB.ips), "another policy answers"
    assert cluster.change(replace(first, ingress=(admitting(selecting(app="none")), RULE))) == set(WEB.ips), "at another position"


def test_policies_of_other_pods_change_numbers_and_name_no_other_address(cluster: Cluster) -> None:
    for name in ("aa", "zz"):
        assert cluster.change(policy(name, selecting(app="other"), admitting(selecting(app=name)))) == set(OTHER.ips)


def test_pods_that_divide_a_set_of_policies_leave_the_decisions_of_others_unchanged() -> None:
    """Two policies of one set are compiled apart as soon as a pod is selected by one of them alone."""
    second = policy("second", LabelSelector(), RULE)
    cluster = Cluster(WEB, CLIENT, POLICY, second)
    assert isolating_sets(cluster) == [("shop/second", "shop/web")]
    assert cluster.change(OTHER) == set(OTHER.ips)
    assert isolating_sets(cluster) == [("shop/second",), ("shop/web",)]
    assert cluster.change(deleted=[OTHER]) == set(OTHER.ips)
    assert isolating_sets(cluster) == [("shop/second", "shop/web")]


def isolating_sets(cluster: Cluster) -> list[tuple[str, ...]]:
    """The policies of each tier program for the ingress of the pod web."""
    whole = cluster.compilation.whole()
    endpoint = whole.endpoints[WEB.ips[0]]
    assert endpoint is not None
    program = whole.programs[endpoint.ingress]
    assert program is not None
    tiers = [whole.tiers[number] for number in program.tiers]
    return [tier.isolated_by for tier in tiers if tier is not None]


def test_a_policy_of_no_local_pod_is_not_even_published(cluster: Cluster) -> None:
    cluster.is_touched()
    assert not cluster.change(policy("unused", selecting(app="unused"), admitting(EVERY_POD)))
    assert not cluster.is_touched()


def test_the_label_of_a_namespace_names_the_addresses_that_become_other_peers() -> None:
    team = admitting(EVERY_POD, namespaces=selecting(team="a"))
    one = pod("one", "10.0.1.1", namespace="ops", node="elsewhere")
    two = pod("two", "10.0.1.2", namespace="dev", node="elsewhere")
    cluster = Cluster(WEB, one, two, policy("web", selecting(app="web"), team))
    labels = {NAMESPACE_NAME_LABEL: "ops", "team": "a"}
    assert cluster.change(Namespace(name="ops", labels=labels)) == set(one.ips)
    assert not cluster.change(Namespace(name="ops", labels={**labels, "more": "1"}))
    assert cluster.change(deleted=[Namespace(name="ops", labels=labels)]) == set(one.ips)


def test_a_named_port_counts_once_a_rule_names_it() -> None:
    named = replace(WEB, named_ports=(NamedPort("http", Protocol.TCP, 80),))
    cluster = Cluster(named, CLIENT, policy("web", selecting(app="web"), admitting(selecting(app="client"), tcp("dns"))))
    assert not cluster.change(replace(named, named_ports=(NamedPort("http", Protocol.TCP, 81),)))
    cluster.change(policy("web", selecting(app="web"), admitting(selecting(app="client"), tcp("http"))))
    assert cluster.change(named) == set(WEB.ips)


def test_whatever_came_and_went_leaves_a_snapshot_no_larger_than_before(cluster: Cluster) -> None:
    before = len(cluster.compilation.encoded())
    largest = 0
    for number in range(300):
        passing = policy(f"p-{number}", selecting(app="web"), admitting(selecting(app=f"app-{number}"), tcp(f"port-{number}")))
        guest = replace(
            pod("guest", "10.0.0.20", node="elsewhere", app=f"app-{number}"),
            named_ports=(NamedPort(f"port-{number}", Protocol.TCP, 80),),
        )
        cluster.change(passing, guest)
        assert max(cluster.compiler.selectors) < 4, "numbers are used again"
        largest = max(largest, len(cluster.compilation.encoded()))
        cluster.change(deleted=[passing, guest])
    assert largest < 2 * before
    assert len(cluster.compilation.encoded()) < before + 1024


def test_a_large_first_sync_pauses_and_a_small_event_does_not() -> None:
    cluster = Cluster(WEB, POLICY)
    many = [pod(f"client-{number}", f"10.1.{number // 250}.{number % 250}", app="client") for number in range(5000)]
    cluster.store.apply(Update(upserted=tuple(many), ignored={}, observed_ns=0))
    steps = cluster.compiler.steps()
    assert sum(1 for _ in steps) >= 5
    cluster.store.apply(Update(upserted=(pod("one", "10.2.0.1", app="client"),), ignored={}, observed_ns=0))
    assert sum(1 for _ in cluster.compiler.steps()) <= 1


def test_what_comes_while_the_compiler_pauses_is_applied_before_it_ends() -> None:
    """A builder never holds half an update, whenever the update came."""
    cluster = Cluster(WEB, POLICY)
    many = [pod(f"client-{number}", f"10.1.{number // 250}.{number % 250}", app="client") for number in range(5000)]
    cluster.store.apply(Update(upserted=tuple(many), ignored={}, observed_ns=0))
    steps = cluster.compiler.steps()
    cluster.compilation.apply(next(steps))
    isolating = policy("other", selecting(app="other"))
    cluster.store.apply(Update(upserted=(OTHER, isolating), deleted=(many[4999].key, many[0].key), ignored={}, observed_ns=0))
    for delta in steps:
        cluster.compilation.apply(delta)
    assert cluster.compiler.isolated[Direction.INGRESS] == {*WEB.ips, *OTHER.ips}
    assert len(cluster.compilation.meaning().identities) == 4998 + len({*WEB.ips, *OTHER.ips})


def test_a_store_that_changes_at_every_pause_does_not_keep_the_compiler_from_ending(cluster: Cluster) -> None:
    def toggle(number: int) -> None:
        changed = policy("restless", selecting(app="web"), admitting(selecting(app="client"), tcp(1 + number % 2)))
        cluster.store.apply(Update(upserted=(changed,), ignored={}, observed_ns=0))

    toggle(0)
    for number, delta in enumerate(cluster.compiler.steps(), 1):
        cluster.compilation.apply(delta)
        assert number < 100
        toggle(number)
    cluster.compilation.update()
    fresh = Compilation(cluster.store, is_local=lambda pod: pod.node_name == HERE)
    fresh.apply(fresh.compiler.everything(with_node_addresses=False))
    assert cluster.compilation.meaning() == fresh.meaning()


@pytest.mark.parametrize("pods", [300, 3000])
def test_an_event_evaluates_as_many_selectors_in_a_large_cluster_as_in_a_small_one(
    pods: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted rather than timed: selectors are evaluated for the kinds of pods that an event is about."""
    cluster = Cluster(
        WEB,
        POLICY,
        *(
            pod(f"pod-{number}", f"10.3.{number // 250}.{number % 250}", node="elsewhere", app=f"app-{number % 10}")
            for number in range(pods)
        ),
    )
    evaluated = _counting(monkeypatch)
    cluster.change(pod("new", "10.4.0.1", node="elsewhere", app="app-3"))
    assert evaluated() == 0, "one of a kind that is known"
    cluster.change(pod("new", "10.4.0.1", node="elsewhere", app="unknown"))
    assert evaluated() == 1
    cluster.change(replace(POLICY, ingress=(RULE, admitting(selecting(app="app-4")))))
    assert evaluated() == 12, "each kind once: those of ten, the new one, and the web"


def test_a_peer_of_all_namespaces_is_compared_once_with_the_labels_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty namespaces with pods of two kinds. The selector is compared once with all namespaces, whose labels it does not name."""
    clients = (
        pod(f"pod-{kind}", f"10.3.{number}.{kind}", namespace=f"space-{number}", node="elsewhere", app=f"app-{kind}")
        for number in range(50)
        for kind in range(2)
    )
    cluster = Cluster(WEB, POLICY, *clients)
    evaluated = _counting(monkeypatch)
    cluster.change(replace(POLICY, ingress=(RULE, admitting(selecting(app="app-1"), namespaces=EVERY_POD))))
    assert evaluated() == 1 + 3, "the namespaces, and the labels of two kinds and of the web"
    assert len(cluster.compilation.meaning().identities) == 50 + len(WEB.ips)
    cluster.change(POLICY)
    assert evaluated() == 0, "a selector that goes out of use is removed by its number"
    assert cluster.compilation.meaning().identities.keys() == set(WEB.ips)


def test_a_new_peer_of_a_large_cluster_pauses() -> None:
    clients = (
        pod(f"client-{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", app="client", number=str(number))
        for number in range(20_000)
    )
    cluster = Cluster(WEB, POLICY, *clients)
    changed = replace(POLICY, ingress=(RULE, admitting(EVERY_POD, namespaces=EVERY_POD)))
    cluster.store.apply(Update(upserted=(changed,), ignored={}, observed_ns=0))
    assert sum(1 for _ in cluster.compiler.steps()) >= 8


def _counting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    count = 0

    def counted(selector: LabelSelector, labels: dict[str, str]) -> bool:
        nonlocal count
        count += 1
        return matches(selector, labels)

    for module in (peer_classes, identity_update):
        monkeypatch.setattr(module, "matches", counted)

    def since_last() -> int:
        nonlocal count
        present, count = count, 0
        return present

    return since_last
