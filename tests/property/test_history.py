"""A snapshot depends on the present objects alone, and a worker's cache never outlives what it was made from."""

import random
import time

from collections.abc import Iterable

import pytest

from netpolq.addresses import is_ipv4
from netpolq.enums import Protocol
from netpolq.model import Object, Update
from netpolq.policy.compile import compile_image
from netpolq.snapshot.encode import encode
from netpolq.snapshot.image import Image, changed_addresses
from netpolq.snapshot.view import SnapshotView
from netpolq.store import Store
from netpolq_worker.decide import Decider
from netpolq_worker.packet import Question
from tests.support.clusters import Cluster, Flow, random_cluster, random_flows, store_of

CLUSTERS = 60


def image_of(store: Store) -> Image:
    return compile_image(store, is_local=lambda pod: pod.name < "pod-6", with_nodes=True)


def bytes_of(store: Store) -> bytes:
    return encode(image_of(store), version=1, created_ns=0)


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
def test_any_way_to_the_same_objects_gives_the_same_bytes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CLUSTERS):
        expected = store_of(random_cluster(rng).bodies)
        strangers = objects_of(store_of(random_cluster(rng).bodies))
        wanted = objects_of(expected)
        wanted_keys = {item.key for item in wanted}
        store = Store()
        store.apply(update(strangers))
        for item in rng.sample(wanted, len(wanted)):
            store.apply(update([item]))
            if rng.random() < 0.2:
                store.apply(update(deleted=[item]))
                bytes_of(store)
                store.apply(update([item, item]))
        store.apply(update(deleted=[item for item in strangers if item.key not in wanted_keys]))
        assert bytes_of(store) == bytes_of(expected)


def test_an_update_that_changes_nothing_says_so() -> None:
    rng = random.Random(0)
    store = store_of(random_cluster(rng).bodies)
    assert not store.apply(update(objects_of(store)))
    assert store.apply(update(deleted=objects_of(store)[:1]))
    assert not store.apply(update(deleted=[]))


def questions(flows: Iterable[Flow]) -> list[Question]:
    """Flows as a worker asks about them."""
    asked = []
    for flow in flows:
        ports = flow.port if flow.protocol in set(Protocol) else 0
        if is_ipv4(flow.source) and is_ipv4(flow.destination):
            asked.append((flow.source[12:], flow.destination[12:], flow.protocol, ports))
        else:
            asked.append((flow.source, flow.destination, flow.protocol, ports))
    return asked


def mutated(rng: random.Random, cluster: Cluster) -> Store:
    """The cluster with some objects gone, and some of another in their place."""
    store = store_of(cluster.bodies)
    objects = objects_of(store)
    store.apply(update(deleted=rng.sample(objects, min(len(objects), rng.randrange(3)))))
    if rng.random() < 0.7:
        others = objects_of(store_of(random_cluster(rng).bodies))
        store.apply(update(rng.sample(others, min(len(others), 1 + rng.randrange(3)))))
    return store


@pytest.mark.parametrize("seed", range(5))
def test_a_cache_that_was_told_what_changed_answers_as_an_empty_one(seed: int) -> None:
    rng = random.Random(1000 + seed)
    kept = different = 0
    for _ in range(CLUSTERS):
        cluster = random_cluster(rng)
        asked = questions(random_flows(rng, cluster, 150))
        before, after = image_of(store_of(cluster.bodies)), image_of(mutated(rng, cluster))
        changed = changed_addresses(before, after)
        caching, fresh = Decider(), Decider()
        caching.adopt(SnapshotView(encode(before, version=1, created_ns=0)), None)
        earlier = [caching.decide(question) for question in asked]
        assert [caching.decide(question) for question in asked] == earlier
        caching.adopt(SnapshotView(encode(after, version=2, created_ns=0)), changed)
        fresh.adopt(SnapshotView(encode(after, version=2, created_ns=0)), None)
        kept += len(caching)
        answers = [fresh.decide(question) for question in asked]
        different += answers != earlier
        assert [caching.decide(question) for question in asked] == answers
    assert kept > 0, "a cache that is always emptied proves nothing"
    assert different > 0, "nor do changes that change no answer"
