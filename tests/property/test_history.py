"""The compiled policy depends on the current objects alone, and a worker's flow cache has no stale answers."""

import random
import time

from collections.abc import Iterable

import pytest

from netpolq.addresses import IPV4_MAPPED_PREFIX, AddressKey, format_address, is_ipv4
from netpolq.decision import Decision, denies
from netpolq.enums import Direction, Protocol, Verdict
from netpolq.model import Object, Pod, Update
from netpolq.policy.compiler import Compiler
from netpolq.policy.evaluator import Explanation
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.snapshot.reader import SnapshotReader
from netpolq.store import Store
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.packet import Question
from tests.support.clusters import Flow, random_cluster, random_flows, random_names
from tests.support.compiled import Compilation, Meaning, encode
from tests.support.sizes import sized

CLUSTERS = 60
STEPS = 150


def is_local(pod: Pod) -> bool:
    return pod.name < "pod-6"


def compiled_at_once(store: Store) -> Meaning:
    """The meaning of a compilation from scratch."""
    compilation = Compilation(store, is_local=is_local, with_pod_names=True)
    compilation.apply(compilation.compiler.everything(with_node_addresses=False))
    return compilation.meaning()


def compilation_of(store: Store) -> Compilation:
    return Compilation(store, is_local=is_local, with_pod_names=True)


def objects_of(store: Store) -> list[Object]:
    return [
        *store.namespaces.values(),
        *store.pods.values(),
        *store.nodes.values(),
        *store.policies.values(),
        *store.cluster_policies.values(),
    ]


def update(upserted: Iterable[Object] = (), deleted: Iterable[Object] = ()) -> Update:
    return Update(
        upserted=tuple(upserted),
        deleted=tuple(item.key for item in deleted),
        ignored={},
        observed_ns=time.monotonic_ns(),
    )


@pytest.mark.parametrize("seed", range(sized(5)))
def test_any_order_of_events_that_ends_with_the_same_objects_has_the_same_meaning(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CLUSTERS):
        expected = random_cluster(rng).store()
        others = objects_of(random_cluster(rng).store())
        wanted = objects_of(expected)
        wanted_keys = {item.key for item in wanted}
        store = Store()
        compilation = compilation_of(store)
        store.apply(update(others))
        change_names(rng, store)
        for item in rng.sample(wanted, len(wanted)):
            store.apply(update([item]))
            change_names(rng, store)
            if rng.random() < 0.2:
                compilation.update()
            if rng.random() < 0.2:
                store.apply(update(deleted=[item]))
                compilation.update()
                store.apply(update([item, item]))
        store.apply(update(deleted=[item for item in others if item.key not in wanted_keys]))
        for address in store.names.keys() | expected.names.keys():
            store.set_names(address, expected.names.get(address, frozenset()))
        compilation.update()
        assert compilation.meaning() == compiled_at_once(expected)


def test_an_update_that_changes_nothing_leaves_the_snapshot_untouched() -> None:
    rng = random.Random(0)
    store = random_cluster(rng).store()
    compilation = compilation_of(store)
    compilation.update()
    compilation.encoded()
    assert not store.apply(update(objects_of(store)))
    compilation.update()
    assert not compilation.builder.is_touched
    assert store.apply(update(deleted=objects_of(store)[:1]))
    assert not store.apply(update(deleted=[]))


def as_question(flow: Flow) -> Question:
    """A flow as a worker asks about it."""
    port = flow.port if flow.protocol in set(Protocol) else 0
    if is_ipv4(flow.source) and is_ipv4(flow.destination):
        return flow.source[12:], flow.destination[12:], flow.protocol, port
    return flow.source, flow.destination, flow.protocol, port


def change_names(rng: random.Random, store: Store) -> None:
    """Some addresses get other learned names, or lose them."""
    addresses = [format_address(address) for address in sorted(store.everything().addresses)]
    for address, names in random_names(rng, rng.sample(addresses, min(3, len(addresses)))).items():
        store.set_names(address, names if rng.random() < 0.6 else frozenset())


def random_change(rng: random.Random, store: Store) -> Update:
    """A few objects are added, deleted or replaced; now and then nearly all."""
    present = objects_of(store)
    extent = len(present) if rng.random() < 0.03 else rng.randrange(3)
    deleted = rng.sample(present, min(len(present), extent))
    others = objects_of(random_cluster(rng).store())
    return update(rng.sample(others, min(len(others), 1 + rng.randrange(3))), deleted)


Answer = tuple[Verdict, Decision | None, Decision | None]
"""A verdict, and the decisions for egress and ingress."""


def answer_of(cache: FlowCache, question: Question) -> Answer:
    """The answer of a flow cache, with its decisions as values."""
    assert cache.view is not None
    evaluation = cache.evaluation(cache.answer(question))
    return evaluation.verdict, cache.view.decision(evaluation.egress), cache.view.decision(evaluation.ingress)


class History:
    """A store that changes, the compiler that keeps up with it, and a worker's cache that receives the changes."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.compilation = compilation_of(Store())
        self.store = self.compilation.store
        self.flow_cache = FlowCache()
        self.version = 0

    def advance(self) -> frozenset[AddressKey]:
        """Some changes, coalesced into one publish."""
        for _ in range(1 + self._rng.randrange(3)):
            self.store.apply(random_change(self._rng, self.store))
            change_names(self._rng, self.store)
            if self._rng.random() < 0.3:
                self.compilation.update()  # and nothing published: what changed adds up
        self.compilation.update()
        changed = self.compilation.compiler.take_changed()
        self.version += 1
        self.flow_cache.load(self.view(), None if self.version == 1 else changed)
        return changed

    def view(self) -> SnapshotReader:
        return self.compilation.view(self.version)

    def expected(self, flow: Flow) -> Answer | None:
        """The answer by the policies of local pods alone; None where they do not decide alone."""
        if any(self._is_disputed(address) for address in flow[:2]):
            return None
        explanation = ReferenceEvaluator(self.store).explain(*flow, via_service=True)
        egress = self._local_decision(flow.source, explanation, Direction.EGRESS)
        ingress = self._local_decision(flow.destination, explanation, Direction.INGRESS)
        if denies(egress):
            return Verdict.DROP, egress, None
        if denies(ingress):
            return Verdict.DROP, None, ingress
        return Verdict.ACCEPT, egress, ingress

    def _local_decision(self, address: AddressKey, explanation: Explanation, direction: Direction) -> Decision | None:
        owner = self.store.owner(address)
        side = explanation.egress if direction is Direction.EGRESS else explanation.ingress
        return side.decision if owner is not None and is_local(owner) else None

    def _is_disputed(self, address: AddressKey) -> bool:
        """Whether a pod of another node owns an address that a local pod reports, too, and stays isolated by."""
        owner, *others = self.store.pods_with_address(address) or (None,)
        return owner is not None and not is_local(owner) and any(map(is_local, filter(None, others)))


@pytest.mark.parametrize("seed", range(sized(5)))
def test_a_cache_that_was_updated_gives_the_verdicts_and_decisions_of_an_empty_one(seed: int) -> None:
    """They are also those of a snapshot that is built from scratch, and those of the reference evaluator.

    So a change that alters a verdict or only its reason, such as two rules that change places, has named the addresses concerned.
    """
    rng = random.Random(1000 + seed)
    history = History(rng)
    flows = {as_question(flow): flow for _ in range(4) for flow in random_flows(rng, random_cluster(rng), 60)}
    answers: list[Answer] = []
    kept = different = 0
    for _ in range(STEPS):
        earlier = answers
        history.advance()
        kept += len(history.flow_cache)
        fresh, rebuilt = FlowCache(), FlowCache()
        fresh.load(history.view(), None)
        rebuilt.load(SnapshotReader(encode(history.compilation.whole())), None)
        answers = [answer_of(fresh, question) for question in flows]
        different += answers != earlier
        assert [answer_of(history.flow_cache, question) for question in flows] == answers
        assert [answer_of(rebuilt, question) for question in flows] == answers
        for flow, answer in zip(flows.values(), answers, strict=True):
            expected = history.expected(flow)
            assert expected is None or answer == expected, f"the objects decide otherwise about {flow}"
    assert history.compilation.meaning() == compiled_at_once(history.store)
    assert kept > STEPS * len(flows) / 4, "a cache that is mostly emptied proves little"
    assert different > STEPS / 4, "nor do changes that change no answer"


@pytest.mark.parametrize("seed", range(sized(3)))
def test_every_address_reported_as_changed_may_change_a_flow(seed: int) -> None:
    """A rewrite alone reports no address: a reported address has other policies, or other selectors in use match it."""
    rng = random.Random(2000 + seed)
    history = History(rng)
    named = noticed = 0
    before: dict[AddressKey, object] = {}
    for _ in range(STEPS):
        changed = history.advance()
        after = _told_apart(history.compilation.compiler)
        different = {address for address in before.keys() | after.keys() if before.get(address) != after.get(address)}
        named, noticed = named + len(changed), noticed + len(changed & different)
        before = after
    # What changes and changes back between two publishes, or is seen by no program at the end, may be named in vain.
    assert noticed > named * 0.8, f"{named} addresses were named as changed, {noticed} of them have changed"


def _told_apart(compiler: Compiler) -> dict[AddressKey, object]:
    """All by which programs can tell an address from others, its own policies, and whether it is known."""
    classes, sides = compiler._class_of, compiler._endpoints._sides
    return {
        address: (
            {compiler.selectors[number] for number in classes[address].identity.selectors} if address in classes else set(),
            classes[address].identity.named_ports if address in classes else (),
            sides.get(address),
            address in compiler.known,
        )
        for address in classes.keys() | sides.keys()
    }


@pytest.mark.parametrize("seed", range(sized(3)))
def test_the_owner_of_an_address_is_found_without_a_search_through_all_pods(seed: int) -> None:
    rng = random.Random(3000 + seed)
    store = Store()
    for _ in range(STEPS):
        store.apply(random_change(rng, store))
        owners = store.address_owners()
        found = {address: store.owner(address) for address in store.everything().addresses}
        assert {address: pod for address, pod in found.items() if pod is not None} == owners  # nodes have addresses, too
        assert store.owner(AddressKey(IPV4_MAPPED_PREFIX + b"\xc0\x00\x02\x63")) is None
