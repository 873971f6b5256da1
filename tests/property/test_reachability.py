"""Every cell of a matrix, and every change of a difference, is what the reference evaluator says about each pair of addresses."""

import random

import pytest

from netpolq.addresses import is_ipv4
from netpolq.enums import Verdict
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.reachability.cluster import Cluster, Reach
from netpolq.reachability.difference import End, compare, matched, questions_between
from netpolq.reachability.grouping import By, Group, groups_of, outside_group
from netpolq.reachability.matrix import matrix_of
from netpolq.reachability.outside import outside_addresses
from netpolq.reachability.ports import OTHER_PROTOCOLS, PortRange, distinguished
from netpolq.store import Store
from tests.support import clusters
from tests.support.clusters import PORTLESS, random_cluster
from tests.support.sizes import sized


def reference_reach(
    rng: random.Random, evaluator: ReferenceEvaluator, source: Group, destination: Group, ports: PortRange
) -> Reach:
    """The result of all pairs of addresses, each at a random port of the range."""
    allowed = []
    for first in source.addresses:
        for second in destination.addresses:
            if first == second or is_ipv4(first) != is_ipv4(second):
                continue
            if ports == OTHER_PROTOCOLS:
                question = rng.choice(PORTLESS), 0
            else:
                question = ports.protocol, rng.choice((ports.first, ports.last, rng.randint(ports.first, ports.last)))
            allowed.append(evaluator.explain(first, second, *question).verdict is Verdict.ACCEPT)
    return Reach.of(allowed)


def groups_and_outside(store: Store, by: By) -> tuple[tuple[Group, ...], Group]:
    groups = groups_of(store, by)
    return groups, outside_group(groups, outside_addresses((store,)))


@pytest.mark.parametrize("seed", range(sized(20)))
def test_a_cell_has_the_result_of_all_pairs(seed: int) -> None:
    """The outside too, and groups whose pods differ."""
    rng = random.Random(seed)
    for by in By:
        store = random_cluster(rng).store()
        groups, outside = groups_and_outside(store, by)
        matrix = matrix_of(Cluster(store), groups, outside, distinguished((store,)))
        evaluator = ReferenceEvaluator(store)
        by_name = {group.name: group for group in matrix.groups}
        assert len(by_name) == len(groups) + 1
        for (source, destination), cell in matrix.cells.items():
            if source == destination == outside.name:
                assert cell == ()
                continue
            for ports, reach in zip(matrix.ranges, cell or [Reach.ABSENT] * len(matrix.ranges), strict=True):
                expected = reference_reach(rng, evaluator, by_name[source], by_name[destination], ports)
                assert reach is expected, (source, destination, ports)


def test_random_clusters_have_every_result() -> None:
    """A comparison in which a result never occurs shows nothing about it."""
    rng = random.Random(0)
    found = set()
    for _ in range(10):
        store = random_cluster(rng).store()
        matrix = matrix_of(Cluster(store), *groups_and_outside(store, By.WORKLOAD), distinguished((store,)))
        found |= {reach for cell in matrix.cells.values() for reach in cell or (Reach.ABSENT,)}
    assert found == set(Reach)


@pytest.mark.parametrize("seed", range(sized(20)))
def test_a_change_is_a_different_result_in_the_other_cluster(seed: int) -> None:
    """A policy is removed. Every question that has no change has the same result in both."""
    rng = random.Random(1000 + seed)
    cluster = random_cluster(rng)
    policies = [body for body in cluster.bodies if "Policy" in str(body["kind"])]
    if not policies:
        pytest.skip("no policy to remove")
    removed = rng.choice(policies)
    stores = cluster.store(), clusters.store_of(body for body in cluster.bodies if body is not removed)
    for address, names in cluster.names.items():
        stores[1].set_names(address, names)
    groups = [groups_of(store, By.WORKLOAD) for store in stores]
    ends, presence = matched(*groups)
    assert presence == ((), ())
    addresses = outside_addresses(stores)
    questions = list(questions_between(ends, End("outside", addresses, addresses), distinguished(stores)))
    changes = compare(Cluster(stores[0]), Cluster(stores[1]), questions)
    changed = {
        (change.source, change.destination, ports): (change.old.reach, change.new.reach)
        for change in changes
        for ports in change.ports
    }
    evaluators = [ReferenceEvaluator(store) for store in stores]
    for source, destination, ports in questions:
        results = tuple(
            reference_reach(rng, evaluator, Group("", (), first), Group("", (), second), ports)
            for evaluator, first, second in zip(evaluators, source[1:], destination[1:], strict=True)
        )
        assert changed.get((source.name, destination.name, ports), results[:1] * 2) == results
