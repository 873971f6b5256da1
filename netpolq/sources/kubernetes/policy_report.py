"""What the cluster source knows of one cluster-wide policy, for the writer of its status."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from netpolq.model import Rejection

CONDITION_TYPES = frozenset({"Accepted"})
"""The types of conditions that this project writes."""

_MAX_CONDITIONS = 100
"""Maximum number of entries read: more than the API allows."""


class PolicyCondition(NamedTuple):
    """A condition of a policy as received, of a type that this project writes. `observed_generation`: 0 if there is none."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int
    last_transition_time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyReport:
    """One policy. `api_version`: that is watched. `rejection`: None if the policy is in force as written."""

    kind: str
    name: str
    api_version: str
    generation: int
    uid: str
    conditions: tuple[PolicyCondition, ...]
    rejection: Rejection | None


def report_of(kind: str, name: str, api_version: str, body: object, rejection: Rejection | None) -> PolicyReport:
    """The report of a policy. Any value may be in the place of any field; what is not as the API defines it counts as absent."""
    metadata, status = _mapping(_mapping(body).get("metadata")), _mapping(_mapping(body).get("status"))
    return PolicyReport(
        kind=kind,
        name=name,
        api_version=api_version,
        generation=_number(metadata.get("generation")),
        uid=_text(metadata.get("uid")),
        conditions=tuple(_conditions(status.get("conditions"))),
        rejection=rejection,
    )


def _conditions(entries: object) -> Iterator[PolicyCondition]:
    for entry in entries[:_MAX_CONDITIONS] if isinstance(entries, list) else ():
        fields = _mapping(entry)
        if _text(fields.get("type")) in CONDITION_TYPES:
            yield PolicyCondition(
                type=_text(fields.get("type")),
                status=_text(fields.get("status")),
                reason=_text(fields.get("reason")),
                message=_text(fields.get("message")),
                observed_generation=_number(fields.get("observedGeneration")),
                last_transition_time=_text(fields.get("lastTransitionTime")),
            )


def _mapping(value: object) -> dict[object, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
