"""The condition of a cluster-wide policy, and the request body that applies it.

The API defines no types or reasons of conditions for these kinds. `Accepted` is the type of the Gateway API for "the implementation takes
the object as it is". It is True only for a policy that is in force as written, so that `kubectl wait` and alerts find every other.
"""

from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from netpolq.model import Rejection
from netpolq.sources.kubernetes.policy_report import CONDITION_TYPE, PolicyReport
from netpolq.sources.kubernetes.resources import PLURALS

MAX_MESSAGE_BYTES = 32768
"""Source: `maxLength` of a condition's message in the CRDs. It counts characters, which are never more than bytes."""
FIELD_MANAGER = "netpolq-policy-status"
"""The same for all agents, so that the next leader owns the same fields."""

_CUT = "…"


class Condition(NamedTuple):
    """A condition of the type `CONDITION_TYPE`. `generation`: of the policy that it describes."""

    status: str
    reason: str
    message: str
    generation: int


def condition_of(report: PolicyReport) -> Condition:
    """The condition that the policy should have."""
    if report.rejection is None:
        return Condition("True", "Accepted", "The policy is in force as written.", report.generation)
    return Condition("False", "NotEnforcedAsWritten", _message(report.rejection), report.generation)


def _message(rejection: Rejection) -> str:
    """Each field with its problem, then what is in force instead, which a cut never removes."""
    first = f"{rejection.field}: {rejection.message}" if rejection.field else rejection.message
    ending = _bounded(f" ({rejection.consequence})", MAX_MESSAGE_BYTES // 2)
    return _bounded("; ".join([first, *rejection.further]), MAX_MESSAGE_BYTES - len(ending.encode())) + ending


def _bounded(text: str, max_bytes: int) -> str:
    """The text as valid UTF-8 of at most that many bytes."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > max_bytes:
        encoded = encoded[: max_bytes - len(_CUT.encode())]
        return encoded.decode("utf-8", "ignore") + _CUT
    return encoded.decode()


def is_current(report: PolicyReport, wanted: Condition) -> bool:
    """Whether the policy has the condition already."""
    return any(
        Condition(found.status, found.reason, found.message, found.observed_generation) == wanted
        for found in report.conditions
        if found.type == CONDITION_TYPE
    )


def path(report: PolicyReport) -> str:
    """The path of the status of a policy."""
    plural = next(plural for kind, plural in PLURALS.items() if kind == report.kind)
    return f"/apis/{report.api_version}/{plural}/{quote(report.name, safe='')}/status"


def apply_body(report: PolicyReport, wanted: Condition, at: datetime) -> dict[str, object]:
    """The object for a server-side apply of the condition alone. `at`: the time of a transition, if the condition's status changes."""
    since = next(
        (
            found.last_transition_time
            for found in report.conditions
            if found.type == CONDITION_TYPE and found.status == wanted.status and found.last_transition_time
        ),
        at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    condition = {
        "type": CONDITION_TYPE,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": wanted.generation,
        "lastTransitionTime": since,
    }
    return {
        "apiVersion": report.api_version,
        "kind": report.kind,
        "metadata": {"name": report.name},
        "status": {"conditions": [condition]},
    }
