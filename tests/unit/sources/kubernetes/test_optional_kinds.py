"""Kinds that exist only with their CRDs: they come, change and go while the source runs."""

import logging

from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from netpolq.model import ObjectKey
from netpolq.sources.decode.kinds import CLUSTER_POLICIES as KIND_NAMES
from netpolq.sources.kubernetes.discovery import read_plurals, read_versions
from netpolq.sources.kubernetes.watch import StreamError
from tests.support.apiserver import (
    ADMIN_POLICIES,
    BASELINE_POLICIES,
    CLUSTER_POLICIES,
    DISCOVERY,
    Answer,
    ApiServer,
    Body,
    GoSilent,
    NeverAnswer,
    Resource,
    Verb,
    WatchListSupport,
)
from tests.support.cluster_reading import HURRIED, Reader, fill, pod, reading
from tests.support.polling import until

GROUP = "policy.networking.k8s.io"
KINDS = {CLUSTER_POLICIES: "v1alpha2", ADMIN_POLICIES: "v1alpha1", BASELINE_POLICIES: "v1alpha1"}
ASKING = replace(HURRIED, discovery_s=(0.02, 0.04), absence_s=0.01)
"""Discovery is asked all the time, so that a test may wait for several answers after each step."""

PATIENT = replace(HURRIED, discovery_s=(600.0, 600.0))
"""Discovery by itself does not help within the time of a test."""

Step = Callable[[ApiServer], object]
Expected = set[str]


def denies(resource: Resource, name: str = "default", **spec: object) -> Body:
    """A policy that denies all ingress of every pod; fields of the spec may be replaced."""
    is_current = resource is CLUSTER_POLICIES
    rule = {"action": "Deny", "from": [{"namespaces": {}}]}
    body: dict[str, object] = {"subject": {"namespaces": {}}, "ingress": [rule]}
    if is_current:
        body["tier"] = "Admin"
    if resource is not BASELINE_POLICIES:
        body["priority"] = 5
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name, "generation": 7},
        "spec": body | spec,
    }


def names(reader: Reader) -> set[str]:
    return set(reader.store.cluster_policies)


def _key(resource: Resource, name: str) -> ObjectKey:
    return ObjectKey(KIND_NAMES[resource.kind], "", name)


def _serve(resource: Resource, *versions: str) -> Step:
    return lambda server: server.serve(resource, *versions)


def _put(resource: Resource, name: str = "default") -> Step:
    return lambda server: server.put(denies(resource, name))


def _delete(resource: Resource, name: str = "default") -> Step:
    return lambda server: server.delete(resource, "", name)


def _drop(resource: Resource) -> Step:
    return lambda server: server.delete_crd(resource)


CNP, ANP, BANP = CLUSTER_POLICIES, ADMIN_POLICIES, BASELINE_POLICIES
ANP_NAME, BANP_NAME = "AdminNetworkPolicy/default", "BaselineAdminNetworkPolicy/default"
TRANSITIONS: dict[str, list[tuple[Step, Expected]]] = {
    "appears": [(_serve(CNP, "v1alpha2"), set()), (_put(CNP), {"default"})],
    "appears with objects": [(_put(CNP), set()), (_serve(CNP, "v1alpha2"), {"default"})],
    "goes": [(_put(CNP), set()), (_serve(CNP, "v1alpha2"), {"default"}), (_drop(CNP), set())],
    "goes after its objects": [
        (_serve(CNP, "v1alpha2"), set()),
        (_put(CNP), {"default"}),
        (_delete(CNP), set()),
        (_drop(CNP), set()),
    ],
    "gets a newer version": [
        (_put(CNP), set()),
        (_serve(CNP, "v1alpha2"), {"default"}),
        (_serve(CNP, "v1alpha2", "v1beta1"), {"default"}),
        (_put(CNP, "later"), {"default", "later"}),
    ],
    "loses its newer version": [
        (_put(CNP), set()),
        (_serve(CNP, "v1alpha2", "v1beta1"), {"default"}),
        (_serve(CNP, "v1alpha2"), {"default"}),
        (_delete(CNP), set()),
    ],
    "loses its older version": [
        (_put(CNP), set()),
        (_serve(CNP, "v1alpha2"), {"default"}),
        (_serve(CNP, "v1beta1"), {"default"}),
        (_delete(CNP), set()),
    ],
    "has only an unknown version": [(_put(CNP), set()), (_serve(CNP, "v2"), set()), (_serve(CNP, "v1beta1", "v2"), {"default"})],
    "changes its schema": [
        (_put(CNP), set()),
        (_serve(CNP, "v1alpha2"), {"default"}),
        (_serve(CNP, "v1alpha2"), {"default"}),
        (_put(CNP, "later"), {"default", "later"}),
    ],
    "comes again with other objects": [
        (_put(CNP), set()),
        (_serve(CNP, "v1alpha2"), {"default"}),
        (lambda server: (_drop(CNP)(server), _serve(CNP, "v1alpha2")(server), _put(CNP, "other")(server)), {"other"}),
    ],
    "comes again with the same name": [
        (_put(CNP), set()),
        (_serve(CNP, "v1alpha2"), {"default"}),
        (
            lambda server: (_drop(CNP)(server), _serve(CNP, "v1alpha2")(server), _put(CNP)(server)),
            {"default"},
        ),
        (_delete(CNP), set()),
    ],
    "older kinds come and go": [
        (lambda server: [_put(kind)(server) for kind in KINDS], set()),
        (_serve(ANP, "v1alpha1"), {ANP_NAME}),
        (_serve(BANP, "v1alpha1"), {ANP_NAME, BANP_NAME}),
        (_serve(CNP, "v1beta1"), {ANP_NAME, BANP_NAME, "default"}),
        (_drop(ANP), {BANP_NAME, "default"}),
        (_drop(CNP), {BANP_NAME}),
        (_drop(BANP), set()),
    ],
}
"""Steps, and the policies in force after each of them."""


@pytest.mark.parametrize("support", [WatchListSupport.FULL, WatchListSupport.REFUSED])
@pytest.mark.parametrize("steps", TRANSITIONS.values(), ids=TRANSITIONS)
async def test_what_is_in_force_follows_the_crds_without_a_warning_or_a_problem(
    steps: list[tuple[Step, Expected]], support: WatchListSupport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ApiServer(watch_list=support, bookmark_interval_s=0.2) as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), ASKING) as reader:
            await until(lambda: reader.store.synced)
            for step, expected in steps:
                step(server)
                await _until_discovered(server)
                await until(lambda wanted=expected: names(reader) == wanted)  # type: ignore[misc]  # mypy has no type for the default
                assert reader.source.problems == []
            assert set(reader.source.policy_reports) == {policy.key for policy in reader.store.cluster_policies.values()}
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def _until_discovered(server: ApiServer) -> None:
    """Wait until the documents were asked for three times more: a kind that is gone needs two, one may be under way."""
    count = len(_questions(server))
    await server.until(lambda: len(_questions(server)) >= count + 3)


def _questions(server: ApiServer) -> list[str]:
    return [request.path for request in server.asked(DISCOVERY) if request.path == f"/apis/{GROUP}"]


async def test_the_first_update_has_the_policies_of_the_kinds_that_exist(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        for resource, version in KINDS.items():
            server.serve(resource, version)
            server.put(denies(resource))
        server.inject(Answer(resource=CNP, times=3, code=503))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.store.synced)
            assert len(reader.updates) == 1
            assert names(reader) == {"default", ANP_NAME, BANP_NAME}


async def test_objects_stay_until_the_new_version_is_complete_and_those_deleted_meanwhile_go_then(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.put(denies(CNP))
        server.put(denies(CNP, "deleted"))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await server.until(lambda: server.open_watches(CNP) == 1)
            server.inject(Answer(resource=CNP, times=None, code=503))
            server.strike(GoSilent(resource=CNP))
            server.delete(CNP, "", "deleted")
            server.serve(CNP, "v1beta1")
            await server.until(lambda: any(f"{GROUP}/v1beta1/" in request.path for request in server.asked(CNP)))
            await _until_discovered(server)
            assert names(reader) == {"default", "deleted"}
            server.clear()
            await until(lambda: names(reader) == {"default"})


async def test_the_objects_of_a_crd_go_in_one_update(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        for number in range(5):
            server.put(denies(CNP, f"policy-{number}"))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: len(names(reader)) == 5)
            server.delete_crd(CNP)
            await until(lambda: not names(reader))
            assert len(reader.updates) == 2
            assert len(reader.updates[-1].deleted) == 5


async def test_discovery_is_asked_at_once_when_a_watch_ends_with_404(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.put(denies(CNP))
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            await until(lambda: names(reader) == {"default"})
            server.delete_crd(CNP)
            await until(lambda: not names(reader))


FAILURES = [
    *(Answer(resource=DISCOVERY, times=None, code=code) for code in (401, 403, 429, 500, 503)),
    NeverAnswer(resource=DISCOVERY, times=None),
]


@pytest.mark.parametrize("fault", FAILURES, ids=lambda fault: type(fault).__name__ + str(getattr(fault, "code", "")))
async def test_a_failure_of_discovery_keeps_what_is_known(fault: Answer | NeverAnswer, tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.put(denies(CNP))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: names(reader) == {"default"})
            server.inject(fault)
            await until(lambda: bool(reader.source.problems))
            server.put(denies(CNP, "later"))
            await until(lambda: names(reader) == {"default", "later"})
            server.clear()
            await until(lambda: not reader.source.problems)


async def test_one_answer_without_a_kind_is_not_enough(tmp_path: Path) -> None:
    """One API server of several may know a CRD later than the others."""
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.put(denies(CNP))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: names(reader) == {"default"})
            for _ in range(3):
                server.inject(Answer(resource=DISCOVERY, code=404))
                await server.until(lambda: not server.faults)
                await _until_discovered(server)
            assert [update.deleted for update in reader.updates if update.deleted] == []


async def test_without_an_answer_of_discovery_there_is_no_first_update(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.inject(Answer(resource=DISCOVERY, times=None, code=503))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await server.until(lambda: server.open_watches() == 3 and len(_questions(server)) >= 3)
            assert reader.updates == []
            server.clear()
            await until(lambda: reader.store.synced)


async def test_without_permission_for_a_kind_that_exists_there_is_no_first_update(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.forbid(CNP)
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: bool(reader.source.problems))
            assert reader.updates == []
            (problem,) = reader.source.problems
            assert problem.startswith("ClusterNetworkPolicy cannot be read: 403")
            assert problem.endswith(f'must permit list and watch of clusternetworkpolicies in API group "{GROUP}"')
            server.forbid()
            await until(lambda: reader.store.synced and not reader.source.problems)


async def test_a_start_while_the_crd_goes_does_not_hang(tmp_path: Path) -> None:
    """Discovery still has the kind, its list does not answer, and then the CRD is gone."""
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.put(denies(CNP))
        server.inject(GoSilent(resource=CNP, times=None))
        async with reading(server.kubeconfig(tmp_path / "config"), replace(HURRIED, idle_s=60.0, request_s=60.0)) as reader:
            await server.until(lambda: bool(server.asked(CNP)))
            server.delete_crd(CNP)
            await until(lambda: reader.store.synced)
            assert names(reader) == set()


async def test_404_for_a_kind_that_discovery_has_becomes_a_problem(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.inject(Answer(resource=CNP, times=None, code=HTTPStatus.NOT_FOUND))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: any("404" in problem for problem in reader.source.problems))
            assert reader.updates == []


@pytest.mark.parametrize("resource", KINDS, ids=lambda resource: resource.kind)
async def test_an_unreadable_version_leaves_the_last_readable_one_in_force(resource: Resource, tmp_path: Path) -> None:
    key = _key(resource, "default")
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        server.serve(resource, KINDS[resource])
        server.put(denies(resource))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.store.synced)
            before = dict(reader.store.cluster_policies)
            server.put(denies(resource, subject={}))
            await until(lambda: len(reader.store.rejections) == 1)
            assert reader.store.cluster_policies == before
            assert reader.source.policy_reports[key].rejection == reader.store.rejections[0]
            await server.restart()
            server.put(pod("after", "10.0.0.98"))
            await until(lambda: ("shop", "after") in reader.store.pods)
            assert reader.store.cluster_policies == before
            assert len(reader.store.rejections) == 1
            server.delete(resource, "", "default")
            await until(lambda: not reader.store.cluster_policies and not reader.store.rejections)
            assert reader.source.policy_reports == {}


async def test_a_policy_that_was_never_readable_denies_nothing_and_is_reported(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.put(denies(CNP, subject={}))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.store.synced)
            assert names(reader) == set()
            assert len(reader.store.rejections) == 1
            server.put(denies(CNP))
            await until(lambda: names(reader) == {"default"} and not reader.store.rejections)


async def test_a_report_has_the_watched_version_and_the_conditions_of_this_project(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        server.serve(CNP, "v1alpha2", "v1beta1")
        accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "m", "observedGeneration": 6}
        conditions = [{"type": "Other"}, accepted, "no condition"]
        server.put({**denies(CNP), "status": {"conditions": conditions}})
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: reader.store.synced)
            report = reader.source.policy_reports[_key(CNP, "default")]
    assert (report.kind, report.name, report.api_version) == ("ClusterNetworkPolicy", "default", f"{GROUP}/v1beta1")
    assert report.generation == 7
    assert report.uid
    assert [tuple(condition) for condition in report.conditions] == [("Accepted", "True", "Accepted", "m", 6, "")]
    assert report.rejection is None


async def test_a_restored_server_is_believed_for_optional_kinds(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        server.put(denies(CNP, "kept"))
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await until(lambda: names(reader) == {"kept"})
            checkpoint = server.store.checkpoint()
            server.put(denies(CNP, "lost"))
            server.delete(CNP, "", "kept")
            await until(lambda: names(reader) == {"lost"})
            await server.restore(checkpoint, down_s=0.05)
            await until(lambda: names(reader) == {"kept"})


async def test_a_silent_watch_of_an_optional_kind_is_given_up(tmp_path: Path) -> None:
    async with ApiServer(bookmark_interval_s=0.2) as server:
        fill(server)
        server.serve(CNP, "v1alpha2")
        async with reading(server.kubeconfig(tmp_path / "config")) as reader:
            await server.until(lambda: server.open_watches(CNP) == 1)
            server.strike(GoSilent(resource=CNP))
            server.put(denies(CNP))
            await until(lambda: names(reader) == {"default"})


async def test_a_missing_group_costs_one_request_for_each_question(tmp_path: Path) -> None:
    async with ApiServer() as server:
        fill(server)
        async with reading(server.kubeconfig(tmp_path / "config"), PATIENT) as reader:
            await until(lambda: reader.store.synced)
            assert [request.path for request in server.asked(DISCOVERY)] == [f"/apis/{GROUP}"]
            assert not server.asked(CNP, Verb.LIST)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b'{"versions":1,"resources":1}', b'{"versions":[1],"resources":[{}]}', b"\xff"]
)
def test_what_is_no_discovery_document_is_refused(body: bytes) -> None:
    with pytest.raises(StreamError, match="discovery"):
        read_versions(body)
    with pytest.raises(StreamError, match="discovery"):
        read_plurals(body)
