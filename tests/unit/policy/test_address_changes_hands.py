"""An address that moves from one pod to another while the API still has both: which pod's policies and identity apply.

The agent and both evaluators of `netpolq explain` must say the same, in whatever order the pods become known.
"""

import itertools

from collections.abc import Sequence

import pytest

from loadtest.testbed.manifests import Body, policy
from netpolq.addresses import parse_address
from netpolq.enums import Direction, Verdict
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.model import Object, Update
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.sources.decode.decoder import Ignored, decode
from netpolq.store import Store
from tests.support.compiled import Compilation

HERE, ELSEWHERE = "here", "elsewhere"
SHARED, SHARED6, CLIENT, DATABASE = "10.1.0.2", "fd00::2", "10.1.0.3", "10.1.0.9"
DELETED = "2026-01-01T01:00:00Z"


def pod(
    app: str, *ips: str, phase: str = "Running", node: str = HERE, deleted: str = "", created: str = "2026-01-01T00:00:00Z"
) -> Body:
    metadata: dict[str, object] = {"namespace": "shop", "name": app, "labels": {"app": app}, "creationTimestamp": created}
    if deleted:
        metadata |= {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": 30}
    status = {"phase": phase, "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips], "hostIP": "10.9.0.1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": []},
        "status": status,
    }


def new(*ips: str, node: str = HERE) -> Body:
    """The pod to which the address belongs now: its init containers run, so it is Pending."""
    return pod("new", *(ips or (SHARED,)), phase="Pending", node=node, created="2026-01-02T00:00:00Z")


BACKGROUND = (
    pod("client", CLIENT),
    pod("database", DATABASE),
    policy("shop/closed", podSelector={"matchLabels": {"app": "new"}}, policyTypes=["Ingress"]),
    policy("shop/open", podSelector={"matchLabels": {"app": "old"}}, policyTypes=["Ingress"], ingress=[{}]),
    policy(
        "shop/database",
        podSelector={"matchLabels": {"app": "database"}},
        policyTypes=["Ingress"],
        ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "old"}}}]}],
    ),
)


def decoded(body: Body) -> Object:
    item = decode(body)
    assert not isinstance(item, Ignored)
    return item


def verdicts(bodies: Sequence[Body], source: str, destination: str) -> set[Verdict]:
    """What the agent of this node and both evaluators say; the agent takes one object after the other."""
    store = Store()
    compilation = Compilation(store, is_local=lambda found: found.node_name == HERE)
    for body in bodies:
        store.apply(Update(upserted=(decoded(body),), ignored={}, observed_ns=0))
        compilation.update()
    ends = parse_address(source), parse_address(destination)
    agent = compilation.view().evaluate(*ends, 6, 80).verdict
    return {
        agent,
        *(evaluator.explain(*ends, 6, 80).verdict for evaluator in (CompiledEvaluator(store), ReferenceEvaluator(store))),
    }


OLD = {
    "running, grace period over": pod("old", SHARED, deleted=DELETED),
    "running, grace period in the future": pod("old", SHARED, deleted="2099-01-01T00:00:00Z"),
    "pending": pod("old", SHARED, deleted=DELETED, phase="Pending"),
    "of unknown state": pod("old", SHARED, deleted=DELETED, phase="Unknown"),
    "newer than its successor by a clock that was wrong": pod("old", SHARED, deleted=DELETED, created="2026-06-01T00:00:00Z"),
    "failed": pod("old", SHARED, phase="Failed"),
    "succeeded": pod("old", SHARED, phase="Succeeded"),
    "pending, without a deletion time": pod("old", SHARED, phase="Pending"),
    "on another node": pod("old", SHARED, deleted=DELETED, node=ELSEWHERE),
}


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("order", [0, 1], ids=["old first", "new first"])
def test_the_policies_of_the_new_pod_count(old: str, order: int) -> None:
    """The old pod's policy admits everything, the new one's nothing: nothing reaches the address any more."""
    pair = (OLD[old], new())
    assert verdicts([*BACKGROUND, *(pair if order == 0 else reversed(pair))], CLIENT, SHARED) == {Verdict.DROP}


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("node", [HERE, ELSEWHERE])
def test_to_peers_the_address_is_the_new_pod(old: str, node: str) -> None:
    """The old pod was an admitted peer, the new one is none, wherever it runs."""
    for pair in itertools.permutations((OLD[old], new(node=node))):
        assert verdicts([*BACKGROUND, *pair], SHARED, DATABASE) == {Verdict.DROP}


def test_the_deletion_time_may_come_after_the_new_pod() -> None:
    """The address moves when the old pod is marked as deleted, not only when one of the pods appears or is gone."""
    events = [pod("old", SHARED), new(), pod("old", SHARED, deleted=DELETED)]
    assert verdicts([*BACKGROUND, *events[:2]], CLIENT, SHARED) == {Verdict.ACCEPT}, "a pod that runs is not moved by a claim"
    assert verdicts([*BACKGROUND, *events], CLIENT, SHARED) == {Verdict.DROP}


def test_the_addresses_of_both_families_change_hands_separately() -> None:
    """The old pod keeps the address that the new one has not got."""
    bodies = [*BACKGROUND, pod("old", SHARED, SHARED6, deleted=DELETED), new(SHARED)]
    assert verdicts(bodies, SHARED, DATABASE) == {Verdict.DROP}
    store = Store()
    store.apply(Update(upserted=tuple(map(decoded, bodies)), ignored={}, observed_ns=0))
    owners = [store.owner(parse_address(address)) for address in (SHARED, SHARED6)]
    assert [owner.name for owner in owners if owner is not None] == ["new", "old"]


def test_a_pod_that_is_deleted_stays_isolated_as_long_as_no_local_pod_has_its_address() -> None:
    """A claim from another node, by a pod that lives, opens no local pod in its grace period."""
    store = Store()
    compilation = Compilation(store, is_local=lambda found: found.node_name == HERE)
    victim = pod("database", DATABASE, deleted="2099-01-01T00:00:00Z")
    claim = pod("evil", DATABASE, node=ELSEWHERE, created="2026-06-01T00:00:00Z")
    store.apply(Update(upserted=tuple(map(decoded, [*BACKGROUND, victim, claim])), ignored={}, observed_ns=0))
    compilation.update()
    assert parse_address(DATABASE) in compilation.compiler.isolated[Direction.INGRESS]
    view = compilation.view()
    assert view.evaluate(parse_address(CLIENT), parse_address(DATABASE), 6, 80).verdict is Verdict.DROP
