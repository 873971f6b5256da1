"""Random clusters and flows: what `netpolq recommend` promises, checked with the reference evaluator and not with its own verification."""

import random

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import assume, event, given, settings

from netpolq.addresses import parse_address
from netpolq.enums import Direction, Verdict
from netpolq.errors import NetpolqError
from netpolq.explain.flow import parse_protocol
from netpolq.explain.manifests import load
from netpolq.flows.record import OTHER_ADDRESSES, FlowEnd, FlowRecord
from netpolq.model import Pod, Update
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.policy.selectors import matches
from netpolq.recommendation import Answer, Options, Request, recommended
from netpolq.recommendation.manifests import objects_of
from netpolq.recommendation.yaml_writer import plain
from netpolq.store import Store
from tests.support.random_flows import PORTS, PROTOCOLS, Scene, scenes
from tests.support.sizes import sized

EXAMPLES = settings(max_examples=sized(60), deadline=None)
STAND_IN = "203.0.113.77"
"""An address for those that were not recorded."""


def answer_for(records: list[FlowRecord], options: Options | None = None, known: Store | None = None) -> Answer:
    """The recommendation; the example counts only if there is something to recommend. `known`: pods of manifests."""
    try:
        return recommended(records, Request(options or Options()), known)
    except NetpolqError as error:
        if "verification" in str(error):
            raise
        assume(False)
        raise


def store_of_pods(scene: Scene) -> Store:
    store = Store()
    pods = (
        Pod(namespace=end.namespace, name=end.pod, labels=end.labels, ips=(parse_address(end.address),))
        for _workload, end in scene.pods()
    )
    store.apply(Update(upserted=tuple(pods), ignored={}, observed_ns=0))
    return store


def store_of(answer: Answer, scene: Scene) -> Store:
    """The printed policies as an agent reads them, and the pods as they really are."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "policies.yaml")
        path.write_text(answer.manifests, encoding="utf-8")
        store = load(path).store
    assert store.rejections == ()
    store.apply(Update(upserted=tuple(store_of_pods(scene).pods.values()), ignored={}, observed_ns=0))
    return store


def is_accepted(evaluator: ReferenceEvaluator, source: FlowEnd, destination: FlowEnd, protocol: str, port: int | None) -> bool:
    first, second = (parse_address(STAND_IN if end.address == OTHER_ADDRESSES else end.address) for end in (source, destination))
    return evaluator.explain(first, second, parse_protocol(protocol), port or 0).verdict is Verdict.ACCEPT


@EXAMPLES
@given(scenes())
def test_all_that_was_seen_is_allowed(scene: Scene) -> None:
    records = scene.records()
    store = store_of(answer_for(records), scene)
    evaluator = ReferenceEvaluator(store)
    for record in records:
        flow = record.flow
        if flow.verdict.is_enforced_accept:
            assert is_accepted(evaluator, *flow[:4]), flow


@EXAMPLES
@given(scenes())
def test_all_that_was_seen_is_allowed_by_name(scene: Scene) -> None:
    """With --domain-names, once the names are learned."""
    records = scene.records()
    store = store_of(answer_for(records, Options(domain_names=True)), scene)
    event(f"cluster-wide policies: {bool(store.cluster_policies)}")
    for record in records:
        for end in record.flow[:2]:
            if end.names:
                address = parse_address(end.address)
                store.set_names(address, store.names.get(address, frozenset()) | frozenset(end.names))
    evaluator = ReferenceEvaluator(store)
    for record in records:
        if record.flow.verdict.is_enforced_accept:
            assert is_accepted(evaluator, *record.flow[:4]), record.flow


def is_dns(end: FlowEnd) -> bool:
    return end.namespace == "kube-system" and end.labels.get("k8s-app") == "kube-dns"


@EXAMPLES
@given(scenes())
def test_what_was_not_seen_between_pods_is_denied(scene: Scene) -> None:
    """At the level of workloads, where one of them has a policy. All pods are known from manifests, also those
    without a flow. Blocks have no pods here.
    """
    records = scene.records()
    store = store_of(answer_for(records, known=store_of_pods(scene)), scene)
    evaluator = ReferenceEvaluator(store)
    identities = {end.address: workload.identity for workload, end in scene.pods()}
    seen = set()
    has_all = set()
    for record in records:
        flow = record.flow
        if flow.verdict.is_enforced_accept and flow.source.address != flow.destination.address:
            ends = tuple(identities.get(end.address, end.address) for end in flow[:2])
            is_of_dns = flow.port == 53 and is_dns(flow.destination) and flow.protocol != "SCTP"
            protocols = ("TCP", "UDP") if is_of_dns else (flow.protocol,)
            seen |= {(*ends, protocol, flow.port) for protocol in protocols}
            # Unrecorded addresses open the port to every address.
            for number in (0, 1):
                if (flow.source, flow.destination)[number].address == OTHER_ADDRESSES:
                    has_all |= {(ends[1 - number], number, protocol, flow.port) for protocol in protocols}
    checked = 0
    for _workload, source in scene.pods():
        for _other, destination in scene.pods():
            if source == destination:
                continue
            ends = identities[source.address], identities[destination.address]
            for protocol in PROTOCOLS:
                for port in (*PORTS, 54, 84):
                    isolating = [
                        evaluator.isolating(direction, store.pods[end.namespace, end.pod])
                        for direction, end in ((Direction.EGRESS, source), (Direction.INGRESS, destination))
                    ]
                    is_open = [
                        not policies or (end, number, protocol, port) in has_all
                        for policies, end, number in zip(isolating, ends, (1, 0), strict=True)
                    ]
                    if (*ends, protocol, port) in seen or all(is_open):
                        continue
                    checked += 1
                    assert not is_accepted(evaluator, source, destination, protocol, port), (source, destination, port)
    event(f"checked: {min(checked, 1)}")


@EXAMPLES
@given(scenes())
def test_a_policy_selects_the_pods_of_one_workload(scene: Scene) -> None:
    """Of all pods that are known from manifests. Deployments with equal labels are one workload."""
    store = store_of(answer_for(scene.records(), known=store_of_pods(scene)), scene)
    selected = []
    for policy in store.policies.values():
        found = {
            workload.identity
            for workload, end in scene.pods()
            if end.namespace == policy.namespace and matches(policy.pod_selector, end.labels)
        }
        assert len(found) == 1
        selected.append(found.pop())
        assert not any("hash" in requirement.key for requirement in policy.pod_selector.requirements)
    assert len(selected) == len(set(selected))


@EXAMPLES
@given(scenes())
def test_the_order_of_the_records_does_not_matter(scene: Scene) -> None:
    """Each connection is there twice, with other pods of the same workloads."""
    records = scene.records() + scene.records(revision=1)
    shuffled = list(records)
    random.Random(1).shuffle(shuffled)
    assert answer_for(records) == answer_for(shuffled)


def objects(answer: Answer) -> list[object]:
    return [plain(item) for policy in answer.policies for item in objects_of(policy, audit=False)]


@EXAMPLES
@given(scenes())
def test_policies_are_the_same_after_a_rollout(scene: Scene) -> None:
    """Names, addresses and hashes of all pods are others."""
    assert objects(answer_for(scene.records())) == objects(answer_for(scene.records(revision=1)))


@EXAMPLES
@given(scenes())
def test_policies_are_the_same_during_a_rollout(scene: Scene) -> None:
    """Pods of both revisions are in the records."""
    both = scene.records() + scene.records(revision=1)
    assert objects(answer_for(scene.records())) == objects(answer_for(both))
