"""An answer from the objects that an agent serves for a question is the answer from all objects, to the byte."""

import asyncio
import random

import pytest

from netpolq.addresses import format_address
from netpolq.enums import DenyWith
from netpolq.explain.answers import all_as_json, all_as_text, explain_all
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.explain.flows import Flow, Flows
from netpolq.explain.known import Known
from netpolq.model import Update
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store
from netpolq.supervisor.objects_report import Objects, ObjectsReport, decode
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout_events import CompileStarted, Noticed, Published
from tests.support.clusters import random_cluster, random_flows
from tests.support.progress import progress_of
from tests.support.sizes import sized

CLUSTERS_PER_SEED = 40
FLOWS_PER_CLUSTER = 8


def compiled() -> Progress:
    """The progress of a supervisor that has published all it has noticed."""
    progress = progress_of()
    for event in (Noticed(0), CompileStarted(), Published(1, (), "")):
        progress.send(event)
    return progress


def served(store: Store, *ends: str) -> Objects:
    """The document for ends, sent and received."""

    async def pieces() -> bytes:
        report = ObjectsReport(store=store, progress=compiled(), node="a", deny_with=DenyWith.REJECT)
        return b"".join([piece async for piece in report.document([("end", end) for end in ends])])

    return decode(asyncio.run(pieces()))


def known(objects: Objects) -> Known:
    store = Store()
    store.apply(Update(upserted=objects.objects, rejections=objects.rejections, ignored={}, observed_ns=0))
    for address, names in objects.names.items():
        store.set_names(address, names)
    return Known(store=store, deny_with=DenyWith(objects.header.deny_with))


def answers(of: Known, flow: Flow) -> tuple[str, ...]:
    found = []
    for kind in (CompiledEvaluator, ReferenceEvaluator):
        flows = Flows(flows=(flow,))
        enforced, audited = (kind(of.store, deny_with=of.deny_with, with_audit=with_audit) for with_audit in (False, True))
        explained = explain_all(of, enforced, audited, flows, via_service=False)
        found += [all_as_text(explained, flows, of), all_as_json(explained, flows, of)]
    return tuple(found)


@pytest.mark.parametrize("seed", range(sized(4)))
def test_answers_from_an_excerpt_are_those_from_all_objects(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        whole = Known(store=cluster.store(), deny_with=DenyWith.REJECT)
        for flow in random_flows(rng, cluster, FLOWS_PER_CLUSTER):
            excerpt = known(served(whole.store, format_address(flow.source), format_address(flow.destination)))
            assert answers(excerpt, Flow(*flow)) == answers(whole, Flow(*flow))


@pytest.mark.parametrize("seed", range(sized(4)))
def test_the_document_of_all_objects_has_all_objects(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CLUSTERS_PER_SEED):
        store = random_cluster(rng).store()
        received = known(served(store)).store
        for name in ("namespaces", "pods", "policies", "cluster_policies", "nodes", "names"):
            assert getattr(received, name) == getattr(store, name)


@pytest.mark.parametrize("seed", range(sized(4)))
def test_an_excerpt_for_pods_has_their_addresses(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CLUSTERS_PER_SEED):
        store = random_cluster(rng).store()
        for pod in store.pods.values():
            excerpt = known(served(store, f"{pod.namespace}/{pod.name}")).store
            assert excerpt.pods[pod.namespace, pod.name] == pod
            for address in pod.ips:
                assert excerpt.pods_with_address(address) == store.pods_with_address(address)
