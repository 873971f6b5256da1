"""The condition of a policy, the request that applies it, and the Lease's body."""

from datetime import UTC, datetime
from typing import cast

import pytest

from netpolq.model import Rejection
from netpolq.policy_status import lease
from netpolq.policy_status.conditions import MAX_MESSAGE_BYTES, apply_body, condition_of, is_current, path
from netpolq.sources.kubernetes.policy_report import PolicyCondition, PolicyReport

NOW = datetime(2026, 5, 4, 3, 2, 1, 5000, tzinfo=UTC)
REJECTION = Rejection(
    origin="",
    key="ClusterNetworkPolicy p",
    field="spec.egress[2].to[0].domainNames",
    message="unknown field",
    further=("spec.ingress[0].from[1]: empty peer",),
    consequence="spec.egress[2] denies everything, spec.ingress[0] matches nothing",
)


def report(
    *conditions: PolicyCondition, rejection: Rejection | None = None, kind: str = "ClusterNetworkPolicy", name: str = "p"
) -> PolicyReport:
    return PolicyReport(
        kind=kind,
        name=name,
        api_version="policy.networking.k8s.io/v1alpha2",
        generation=3,
        uid="u",
        conditions=conditions,
        rejection=rejection,
    )


def written(status: str, reason: str, message: str, generation: int = 3, since: str = "2020-01-01T00:00:00Z") -> PolicyCondition:
    return PolicyCondition("Accepted", status, reason, message, generation, since)


GOOD = written("True", "Accepted", "The policy is in force as written.")


def applied(found: PolicyReport) -> dict[str, object]:
    body = apply_body(found, condition_of(found), NOW)
    (condition,) = cast("dict[str, list[dict[str, object]]]", body["status"])["conditions"]
    return condition


def test_a_policy_that_is_in_force_as_written_is_accepted() -> None:
    assert applied(report()) == {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "The policy is in force as written.",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-05-04T03:02:01Z",
    }


def test_a_policy_with_a_problem_names_each_field_and_what_is_in_force_instead() -> None:
    found = condition_of(report(rejection=REJECTION))
    assert (found.status, found.reason) == ("False", "NotEnforcedAsWritten")
    assert found.message == (
        "spec.egress[2].to[0].domainNames: unknown field; spec.ingress[0].from[1]: empty peer "
        "(spec.egress[2] denies everything, spec.ingress[0] matches nothing)"
    )


def test_a_problem_of_the_whole_object_needs_no_field() -> None:
    whole = Rejection(origin="", message="has no subject", consequence="its last readable version stays in force")
    assert condition_of(report(rejection=whole)).message == "has no subject (its last readable version stays in force)"


@pytest.mark.parametrize("letter", ["a", "é", "€", "𝄞"])
@pytest.mark.parametrize("part", ["message", "consequence", "both"])
def test_a_message_is_bounded_valid_and_keeps_what_is_in_force(letter: str, part: str) -> None:
    long = letter * 40000
    message, consequence = (long if part in {name, "both"} else name for name in ("message", "consequence"))
    found = condition_of(report(rejection=Rejection(origin="", message=message, consequence=consequence))).message
    assert MAX_MESSAGE_BYTES - 4 <= len(found.encode()) <= MAX_MESSAGE_BYTES or part == "consequence"
    assert len(found.encode()) <= MAX_MESSAGE_BYTES
    assert f"({consequence[:100]}" in found
    assert found.startswith(message[:7])
    assert "…" in found


def test_a_lone_surrogate_does_not_reach_the_request() -> None:
    bad = Rejection(origin="", message="\ud800", consequence="x")
    assert condition_of(report(rejection=bad)).message == "? (x)"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (report(GOOD), True),
        (report(), False),
        (report(GOOD._replace(type="Ready")), False),
        (report(GOOD._replace(status="False")), False),
        (report(GOOD._replace(reason="Valid")), False),
        (report(GOOD._replace(message="")), False),
        (report(GOOD._replace(observed_generation=2)), False),
        (report(GOOD._replace(last_transition_time="")), True),
        (report(GOOD, rejection=REJECTION), False),
    ],
    ids=[
        "the same",
        "none",
        "another type",
        "status",
        "reason",
        "message",
        "an older generation",
        "another time",
        "a new problem",
    ],
)
def test_a_condition_is_current_if_all_but_its_time_is_equal(found: PolicyReport, *, expected: bool) -> None:
    assert is_current(found, condition_of(found)) is expected


@pytest.mark.parametrize(
    ("before", "since"),
    [
        (written("True", "Other", "x", 1), "2020-01-01T00:00:00Z"),
        (written("False", "Other", "x", 1), "2026-05-04T03:02:01Z"),
        (written("True", "Other", "x", 1, since=""), "2026-05-04T03:02:01Z"),
        (written("True", "Other", "x", 1)._replace(type="Ready"), "2026-05-04T03:02:01Z"),
    ],
    ids=["the same status", "another status", "no time", "another type"],
)
def test_the_time_of_the_transition_changes_with_the_status_only(before: PolicyCondition, since: str) -> None:
    assert applied(report(before))["lastTransitionTime"] == since


@pytest.mark.parametrize(
    ("kind", "plural"),
    [
        ("ClusterNetworkPolicy", "clusternetworkpolicies"),
        ("AdminNetworkPolicy", "adminnetworkpolicies"),
        ("BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies"),
    ],
)
def test_each_kind_has_its_path(kind: str, plural: str) -> None:
    assert path(report(kind=kind)) == f"/apis/policy.networking.k8s.io/v1alpha2/{plural}/p/status"


def test_a_name_cannot_leave_its_part_of_the_path() -> None:
    assert path(report(name="../x?y")).endswith("/clusternetworkpolicies/..%2Fx%3Fy/status")


BODY = (
    b'{"kind":"Lease","metadata":{"name":"netpolq-policy-status","resourceVersion":"9","labels":{"team":"net"}},'
    b'"spec":{"holderIdentity":"a","leaseDurationSeconds":60,"acquireTime":"then","renewTime":"then","leaseTransitions":4,"strategy":"x"}}'
)


def spec_of(body: dict[str, object]) -> dict[str, object]:
    return cast("dict[str, object]", body["spec"])


def test_a_renewal_changes_the_time_and_keeps_all_that_is_not_ours() -> None:
    before = lease.decode(BODY)
    body = lease.held("kube-system", before, "a", 60, NOW)
    assert body["metadata"] == {"name": "netpolq-policy-status", "resourceVersion": "9", "labels": {"team": "net"}}
    assert spec_of(body) == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 60,
        "acquireTime": "then",
        "renewTime": "2026-05-04T03:02:01.005000Z",
        "leaseTransitions": 4,
        "strategy": "x",
    }


def test_another_holder_counts_as_a_transition() -> None:
    spec = spec_of(lease.held("kube-system", lease.decode(BODY), "b", 60, NOW))
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["acquireTime"]) == ("b", 5, "2026-05-04T03:02:01.005000Z")


def test_a_release_leaves_no_holder() -> None:
    spec = spec_of(lease.released("kube-system", lease.decode(BODY), NOW))
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("", 1, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"spec":null,"metadata":[]}',
        b'{"spec":{"holderIdentity":5,"leaseDurationSeconds":"60","renewTime":null,"leaseTransitions":"x"}}',
    ],
)
def test_fields_of_a_wrong_type_count_as_missing(content: bytes) -> None:
    found = lease.decode(content)
    assert (found.holder, found.renew_time, found.duration_s, found.version) == ("", "", 0.0, "")
    assert spec_of(lease.held("x", found, "a", 60, NOW))["leaseTransitions"] == 0


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"not found", b"\xff"])
def test_an_answer_that_is_no_object_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        lease.decode(content)
