"""What a denial is answered with: annotations of policies, then of the namespace, then the default, in both evaluators."""

import time

from dataclasses import replace

import pytest

from netpolq.addresses import AddressKey, parse_address
from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, DenyWith, Direction, Tier
from netpolq.model import ClusterNetworkPolicy, ClusterRule, LabelSelector, Namespace, NetworkPolicy, Object, Pod, PodPeer, Update
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store
from tests.support.compiled import Compilation

DROP, REJECT = DenyWith.DROP, DenyWith.REJECT
EVERY = LabelSelector()
WEB = Pod(namespace="shop", name="web", labels={"app": "web"}, ips=(parse_address("10.0.0.1"),))
CLIENT = Pod(namespace="other", name="client", labels={}, ips=(parse_address("10.0.0.2"),))
SHOP = Namespace(name="shop", labels={})


def policy(name: str, deny_with: DenyWith | None) -> NetworkPolicy:
    types = frozenset({Direction.INGRESS})
    return NetworkPolicy(namespace="shop", name=name, pod_selector=EVERY, policy_types=types, deny_with=deny_with)


def cluster_policy(deny_with: DenyWith | None, action: Action = Action.DENY) -> ClusterNetworkPolicy:
    subject = PodPeer(EVERY, EVERY)
    rules = (ClusterRule(action),)
    return ClusterNetworkPolicy(name="lock", tier=Tier.ADMIN, priority=1, subject=subject, ingress=rules, deny_with=deny_with)


class Cluster:
    """A store that the compiler follows, and both evaluators of it."""

    def __init__(self, *objects: Object, deny_with: DenyWith = DROP) -> None:
        self.compilation = Compilation(Store(), deny_with=deny_with)
        self.deny_with = deny_with
        self.change(WEB, CLIENT, *objects)

    def change(self, *objects: Object, deleted: tuple[Object, ...] = ()) -> set[AddressKey]:
        """The addresses that an update changes."""
        gone = tuple(item.key for item in deleted)
        self.compilation.store.apply(Update(upserted=objects, deleted=gone, ignored={}, observed_ns=time.monotonic_ns()))
        self.compilation.update()
        return set(self.compilation.compiler.take_changed())

    @property
    def decision(self) -> Decision | None:
        """The decision of the pod's ingress, the same of the snapshot and of the reference."""
        view = self.compilation.view()
        found = view.decision(view.evaluate(CLIENT.ips[0], WEB.ips[0], 6, 80).ingress)
        reference = ReferenceEvaluator(self.compilation.store, deny_with=self.deny_with)
        assert reference.explain(CLIENT.ips[0], WEB.ips[0], 6, 80).ingress.decision == found
        assert view.has_rejections == self.compilation.builder.has_rejections == (found is not None and found.is_rejected)
        return found

    def is_rejected(self) -> bool:
        decision = self.decision
        assert decision is not None
        return decision.is_rejected


@pytest.mark.parametrize(
    ("policies", "namespace", "default", "is_rejected"),
    [
        ([None], None, DROP, False),
        ([None], None, REJECT, True),
        ([None], REJECT, DROP, True),
        ([None], DROP, REJECT, False),
        ([REJECT], DROP, DROP, True),
        ([DROP], REJECT, REJECT, False),
        ([None, REJECT], DROP, DROP, True),
        ([None, DROP], REJECT, REJECT, False),
        ([REJECT, DROP], REJECT, REJECT, False),
        ([REJECT, None, REJECT], None, DROP, True),
    ],
)
def test_isolation_follows_its_policies_then_the_namespace_then_the_default(
    policies: list[DenyWith | None], namespace: DenyWith | None, default: DenyWith, is_rejected: bool
) -> None:
    isolating = [policy(f"p{number}", deny_with) for number, deny_with in enumerate(policies)]
    cluster = Cluster(replace(SHOP, deny_with=namespace), *isolating, deny_with=default)
    names = tuple(f"shop/p{number}" for number in range(len(policies)))
    assert cluster.decision == Isolation(Direction.INGRESS, names, is_rejected)


@pytest.mark.parametrize(
    ("of_policy", "default", "is_rejected"),
    [(None, DROP, False), (None, REJECT, True), (REJECT, DROP, True), (DROP, REJECT, False)],
)
def test_a_rule_that_denies_follows_its_policy_then_the_default(
    of_policy: DenyWith | None, default: DenyWith, is_rejected: bool
) -> None:
    """The namespace of the pod does not count: it is not its policy."""
    opposite = DROP if is_rejected else REJECT
    cluster = Cluster(replace(SHOP, deny_with=opposite), cluster_policy(of_policy), deny_with=default)
    assert cluster.decision == RuleDecision(Direction.INGRESS, Tier.ADMIN, "lock", 0, Action.DENY, "", is_rejected)


def test_a_rule_that_accepts_has_nothing_to_answer() -> None:
    cluster = Cluster(cluster_policy(REJECT, Action.ACCEPT), deny_with=REJECT)
    assert cluster.decision == RuleDecision(Direction.INGRESS, Tier.ADMIN, "lock", 0, Action.ACCEPT)


def test_a_changed_annotation_names_the_pods_that_it_concerns_alone() -> None:
    other = replace(WEB, namespace="quiet", name="other", ips=(parse_address("10.0.0.9"),))
    cluster = Cluster(SHOP, other, policy("web", None), replace(policy("all", None), namespace="quiet"))
    assert not cluster.is_rejected()
    assert cluster.change(policy("web", REJECT)) == set(WEB.ips)
    assert cluster.is_rejected()
    assert cluster.change(policy("web", None)) == set(WEB.ips)
    assert not cluster.is_rejected()
    assert cluster.change(replace(SHOP, deny_with=REJECT)) == set(WEB.ips)
    assert cluster.is_rejected()
    assert cluster.change(deleted=(SHOP,)) == set(WEB.ips)
    assert not cluster.is_rejected()


def test_the_annotation_of_a_namespace_changes_nothing_where_policies_say_or_none_isolates() -> None:
    cluster = Cluster(SHOP, policy("web", DROP))
    assert not cluster.change(replace(SHOP, deny_with=REJECT))
    assert not cluster.is_rejected()
    assert cluster.change(deleted=(policy("web", DROP),)) == set(WEB.ips)
    assert not cluster.change(replace(SHOP, deny_with=None))


def test_a_changed_annotation_of_a_cluster_wide_policy_is_another_decision() -> None:
    cluster = Cluster(cluster_policy(None))
    number = cluster.compilation.view().evaluate(CLIENT.ips[0], WEB.ips[0], 6, 80).ingress
    assert cluster.change(cluster_policy(REJECT)) == {*WEB.ips, *CLIENT.ips}
    assert cluster.is_rejected()
    assert cluster.compilation.view().evaluate(CLIENT.ips[0], WEB.ips[0], 6, 80).ingress != number
