"""Policies as the page shows them."""

import random

from netpolq.explain.known import Known
from netpolq.model import NetworkPolicy, Rejection, Update
from netpolq.policy.tier_policy import selects
from netpolq.sources.decode.decoder import DecodeError, decode
from netpolq.store import Store
from netpolq.ui.policies import policies_fields, shown_policies
from tests.support.clusters import _policy
from tests.support.random_cluster_policies import random_cluster_policy
from tests.support.random_selectors import random_labels


def random_known(rng: random.Random) -> Known:
    bodies = [_policy(rng, number, f"ns-{number % 3}") for number in range(8)]
    bodies += [random_cluster_policy(rng, number) for number in range(4)]
    bodies += [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}", "namespace": f"ns-{number % 4}", "labels": random_labels(rng)},
            "status": {"phase": rng.choice(("Running", "Running", "Succeeded")), "podIP": f"10.0.0.{number + 1}"},
        }
        for number in range(30)
    ]
    objects, rejections = [], []
    for body in bodies:
        try:
            objects.append(decode(body))
        except DecodeError as error:
            rejections.append(error.rejection(key=str(error.key) if hasattr(error, "key") else ""))
            if error.partial is not None:
                objects.append(error.partial)
    store = Store()
    store.apply(Update(upserted=tuple(objects), rejections=tuple(rejections), ignored={}, observed_ns=0))  # type: ignore[arg-type]
    return Known(store=store)


def test_selected_pods_are_those_that_each_policy_selects_one_by_one() -> None:
    for seed in range(60):
        known = random_known(random.Random(seed))
        store = known.store
        for shown in shown_policies(known):
            if shown.policy is None:
                continue
            policy = shown.policy
            expected = {
                f"{pod.namespace}/{pod.name}"
                for pod in store.pods.values()
                if not pod.completed
                and (not isinstance(policy, NetworkPolicy) or pod.namespace == policy.namespace)
                and selects(policy, store.namespace_labels(pod.namespace), pod.labels)
            }
            selected = shown.fields["selects"]
            assert isinstance(selected, dict)
            assert selected["pods"] == len(expected), (seed, shown.id)
            assert set(selected["examples"]) <= expected


def test_ids_are_unique_and_every_rule_has_a_text() -> None:
    for seed in range(60):
        fields = policies_fields(shown_policies(random_known(random.Random(seed))), {})
        ids = [policy["id"] for policy in fields]
        assert len(set(ids)) == len(ids)
        for policy in fields:
            rules = policy["rules"]
            assert isinstance(rules, list)
            assert all(rule["text"] and rule["last_hit"] is None for rule in rules)


def test_a_policy_of_which_nothing_can_be_used_is_shown_with_its_problem() -> None:
    store = Store()
    rejection = Rejection(
        origin="a.yaml",
        key="ClusterNetworkPolicy admin",
        field="spec.subject",
        message="is required",
        consequence="it is not used",
    )
    other = Rejection(origin="b.yaml", key="Pod shop/web", message="is broken", consequence="it is not used")
    store.apply(Update(rejections=(rejection, other), ignored={}, observed_ns=0))
    (shown,) = shown_policies(Known(store=store))
    assert shown.id == "ClusterNetworkPolicy/admin"
    assert shown.fields["problem"] == "a.yaml: spec.subject: is required (it is not used)"
    assert policies_fields((shown,), {})[0]["rules"] == []
