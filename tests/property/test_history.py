"""The meaning of a snapshot depends on the current objects alone, and a worker's flow cache has no stale verdicts."""

import random
import time

from collections.abc import Iterable

import pytest

from netpolq.addresses import IPV4_MAPPED_PREFIX, AddressKey, is_ipv4
from netpolq.enums import Protocol, Reason, Verdict
from netpolq.model import Object, Pod, Update
from netpolq.policy.compiler import Compiler, compile_snapshot
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.snapshot.reader import SnapshotReader
from netpolq.store import Store
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.packet import Question
from tests.support.clusters import Flow, random_cluster, random_flows, store_of
from tests.support.snapshots import canonical

CLUSTERS = 60
STEPS = 150


def is_local(pod: Pod) -> bool:
    return pod.name < "pod-6"


def said_by(store: Store) -> bytes:
    """What a snapshot that is made from scratch says."""
    return canonical(compile_snapshot(store, is_local=is_local, with_nodes=False, with_pod_names=True))


def compiler_of(store: Store) -> Compiler:
    return Compiler(store, is_local=is_local, with_pod_names=True)


def objects_of(store: Store) -> list[Object]:
    return [*store.namespaces.values(), *store.pods.values(), *store.policies.values()]


def update(upserted: Iterable[Object] = (), deleted: Iterable[Object] = ()) -> Update:
    return Update(
        upserted=tuple(upserted),
        deleted=tuple(item.key for item in deleted),
        ignored={},
        observed_ns=time.monotonic_ns(),
    )


@pytest.mark.parametrize("seed", range(5))
def test_any_way_to_the_same_objects_leads_to_a_snapshot_that_says_the_same(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CLUSTERS):
        expected = store_of(random_cluster(rng).bodies)
        strangers = objects_of(store_of(random_cluster(rng).bodies))
        wanted = objects_of(expected)
        wanted_keys = {item.key for item in wanted}
        store = Store()
        compiler = compiler_of(store)
        store.apply(update(strangers))
        for item in rng.sample(wanted, len(wanted)):
            store.apply(update([item]))
            if rng.random() < 0.2:
                compiler.update()
            if rng.random() < 0.2:
                store.apply(update(deleted=[item]))
                compiler.update()
                store.apply(update([item, item]))
        store.apply(update(deleted=[item for item in strangers if item.key not in wanted_keys]))
        compiler.update()
        assert canonical(compiler) == said_by(expected)


def test_an_update_that_changes_nothing_says_so() -> None:
    rng = random.Random(0)
    store = store_of(random_cluster(rng).bodies)
    compiler = compiler_of(store)
    compiler.update()
    compiler.builder.encoded(version=1, created_ns=0)
    assert not store.apply(update(objects_of(store)))
    compiler.update()
    assert not compiler.builder.is_touched
    assert store.apply(update(deleted=objects_of(store)[:1]))
    assert not store.apply(update(deleted=[]))


def as_question(flow: Flow) -> Question:
    """A flow as a worker asks about it."""
    port = flow.port if flow.protocol in set(Protocol) else 0
    if is_ipv4(flow.source) and is_ipv4(flow.destination):
        return flow.source[12:], flow.destination[12:], flow.protocol, port
    return flow.source, flow.destination, flow.protocol, port


def random_change(rng: random.Random, store: Store) -> Update:
    """A few objects come, go or change; now and then nearly all."""
    present = objects_of(store)
    extent = len(present) if rng.random() < 0.03 else rng.randrange(3)
    deleted = rng.sample(present, min(len(present), extent))
    others = objects_of(store_of(random_cluster(rng).bodies))
    return update(rng.sample(others, min(len(others), 1 + rng.randrange(3))), deleted)


class History:
    """A store that changes, the compiler that keeps up with it, and a worker's cache that receives the changes."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.store = Store()
        self.compiler = compiler_of(self.store)
        self.caching = FlowCache()
        self.version = 0

    def advance(self) -> frozenset[AddressKey]:
        """Some changes, coalesced into one publish."""
        for _ in range(1 + self._rng.randrange(3)):
            self.store.apply(random_change(self._rng, self.store))
            if self._rng.random() < 0.3:
                self.compiler.update()  # and nothing published: what changed adds up
        self.compiler.update()
        changed = self.compiler.take_changed()
        self.version += 1
        self.caching.load(self.view(), None if self.version == 1 else changed)
        return changed

    def view(self) -> SnapshotReader:
        return SnapshotReader(self.compiler.builder.encoded(version=self.version, created_ns=0))

    def expected(self, flow: Flow) -> Verdict | None:
        """What the objects say of the policies of local pods, None where more than policies decides."""
        explanation = ReferenceEvaluator(self.store).explain(*flow)
        if explanation.reason is Reason.OWN_NODE:
            return None
        if any(self._is_disputed(address) for address in flow[:2]):
            return None
        source, destination = (self.store.owner(address) for address in flow[:2])
        denied = (source is not None and is_local(source) and explanation.egress.denies) or (
            destination is not None and is_local(destination) and explanation.ingress.denies
        )
        return Verdict.DROP if denied and flow.source != flow.destination else Verdict.ACCEPT

    def _is_disputed(self, address: AddressKey) -> bool:
        """Whether a pod of another node owns an address that a local pod claims, too, and stays isolated by."""
        owner, *others = self.store.claimants(address) or (None,)
        return owner is not None and not is_local(owner) and any(map(is_local, filter(None, others)))


@pytest.mark.parametrize("seed", range(5))
def test_a_cache_that_was_updated_answers_as_an_empty_one(seed: int) -> None:
    rng = random.Random(1000 + seed)
    history = History(rng)
    flows = {as_question(flow): flow for _ in range(4) for flow in random_flows(rng, random_cluster(rng), 60)}
    answers: list[int | None] = []
    kept = different = 0
    for _ in range(STEPS):
        earlier = answers
        history.advance()
        kept += len(history.caching)
        fresh = FlowCache()
        fresh.load(history.view(), None)
        answers = [fresh.answer(question) for question in flows]
        different += answers != earlier
        assert [history.caching.answer(question) for question in flows] == answers
        for flow, code in zip(flows.values(), answers, strict=True):
            expected = history.expected(flow)
            assert code is not None
            assert expected is None or code & 1 == expected, f"the objects themselves say otherwise of {flow}"
    assert canonical(history.compiler) == said_by(history.store)
    assert kept > STEPS * len(flows) / 4, "a cache that is mostly emptied proves little"
    assert different > STEPS / 4, "nor do changes that change no answer"


@pytest.mark.parametrize("seed", range(3))
def test_every_address_reported_as_changed_may_change_a_flow(seed: int) -> None:
    """A rewrite alone reports no address: a reported address has other programs, or other selectors in use match it."""
    rng = random.Random(2000 + seed)
    history = History(rng)
    named = noticed = 0
    before: dict[AddressKey, object] = {}
    for _ in range(STEPS):
        changed = history.advance()
        after = _told_apart(history.compiler)
        different = {address for address in before.keys() | after.keys() if before.get(address) != after.get(address)}
        named, noticed = named + len(changed), noticed + len(changed & different)
        before = after
    # What changes and changes back between two publishes, or is seen by no program at the end, may be named in vain.
    assert noticed > named * 0.8, f"{named} addresses were named as changed, {noticed} of them have changed"


def _told_apart(compiler: Compiler) -> dict[AddressKey, object]:
    """All by which programs can tell an address from others, and its own programs."""
    groups, sides = compiler._class_of, compiler._endpoints._sides
    return {
        address: (
            sorted(compiler.selectors[number] for number in groups[address].identity.selectors) if address in groups else [],
            groups[address].identity.named_ports if address in groups else (),
            sides.get(address),
        )
        for address in groups.keys() | sides.keys()
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_owner_of_an_address_is_known_without_looking_at_all_pods(seed: int) -> None:
    rng = random.Random(3000 + seed)
    store = Store()
    for _ in range(STEPS):
        store.apply(random_change(rng, store))
        owners = store.address_owners()
        assert {address: store.owner(address) for address in store.everything().addresses} == owners
        assert store.owner(AddressKey(IPV4_MAPPED_PREFIX + b"\xc0\x00\x02\x63")) is None
