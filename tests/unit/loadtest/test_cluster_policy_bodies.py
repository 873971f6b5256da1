"""The cluster-wide policies of the load test can be read, have all parts, and decide nothing for its load."""

import random

from collections.abc import Callable, Iterable

from loadtest import clusters
from loadtest.cluster_policy_bodies import POLICIES, RULES, with_cluster_policies
from loadtest.clusters import PORT, SERVER, MixedCluster, PolicyCluster
from loadtest.testbed.manifests import Body
from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import Action, Protocol, Tier, Verdict
from netpolq.model import ClusterNetworkPolicy, Update
from netpolq.snapshot.reader import SnapshotReader
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode
from tests.support.compiled import Compilation

DESTINATION = parse_address(SERVER.addresses[0])


def view_of(bodies: Callable[[], Iterable[Body]]) -> SnapshotReader:
    found = [decode(body) for body in bodies()]
    objects = tuple(item for item in found if not isinstance(item, Ignored | DecodeError))
    assert len(objects) == len(found)
    compilation = Compilation(is_local=lambda pod: DESTINATION in pod.ips)
    compilation.store.apply(Update(upserted=objects, ignored={}, observed_ns=0))
    compilation.update()
    return SnapshotReader(compilation.encoded())


def verdicts(bodies: Callable[[], Iterable[Body]], sources: Iterable[AddressKey], ports: Iterable[int]) -> list[Verdict]:
    view = view_of(bodies)
    flows = zip(sources, ports, strict=True)
    return [view.evaluate(source, DESTINATION, Protocol.UDP, port).verdict for source, port in flows]


def test_they_have_both_tiers_and_rules_of_every_action() -> None:
    policies = [decode(body) for body in with_cluster_policies(list)()]
    rules = [rule for policy in policies if isinstance(policy, ClusterNetworkPolicy) for rule in policy.ingress]

    assert len(rules) == POLICIES * RULES
    assert {policy.tier for policy in policies if isinstance(policy, ClusterNetworkPolicy)} == {Tier.ADMIN, Tier.BASELINE}
    assert {rule.action for rule in rules} == set(Action)
    assert all(rule.peers and rule.ports for rule in rules), "a rule that could not be understood has none"


def test_the_load_of_cold_tuples_has_the_same_verdicts_with_them() -> None:
    cluster = MixedCluster(pods=1000)
    rng = random.Random(0)
    pods = [parse_address(clusters.pod_address(rng.randrange(1000))) for _ in range(2000)]
    outsiders = [parse_address(f"198.{rng.randrange(18, 20)}.{rng.randrange(256)}.{rng.randrange(256)}") for _ in range(2000)]
    ports = [rng.randrange(1024, 65536) for _ in range(4000)]

    without = verdicts(cluster.bodies, [*pods, *outsiders], ports)
    assert set(without) == {Verdict.ACCEPT, Verdict.DROP}
    assert verdicts(with_cluster_policies(cluster.bodies), [*pods, *outsiders], ports) == without


def test_the_load_of_policy_scale_is_accepted_with_them() -> None:
    cluster = PolicyCluster(on_pod=50, policies=60, pods=200)
    senders = [parse_address(address) for address in cluster.senders()]

    assert set(verdicts(with_cluster_policies(cluster.bodies), senders, [PORT] * len(senders))) == {Verdict.ACCEPT}


def test_rules_that_match_the_load_pass_it_on() -> None:
    """A pod as the peer: rules divide the ports of the load, too, so an evaluation of them is part of the cost."""
    view = view_of(with_cluster_policies(MixedCluster(pods=100).bodies))
    source = parse_address(clusters.pod_address(0))
    ingress = view.programs(DESTINATION)[1]
    tables = [table for of_tier in view.candidates(ingress, source, view.identity(source)) for table in of_tier]
    bounds = {bound for table in tables for bound in view.port_bounds(table, view.identity(DESTINATION), Protocol.UDP)}

    assert len([bound for bound in bounds if bound >= 1024]) > 100
