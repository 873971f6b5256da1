"""What the cluster source knows of one cluster-wide policy, for the writer of its status."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from netpolq.model import Rejection
from netpolq.sources.kubernetes.json_fields import mapping, number, text

CONDITION_TYPE = "Accepted"
"""The type of the conditions that this project writes, and reads back."""

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
    metadata, status = mapping(mapping(body).get("metadata")), mapping(mapping(body).get("status"))
    return PolicyReport(
        kind=kind,
        name=name,
        api_version=api_version,
        generation=number(metadata, "generation"),
        uid=text(metadata, "uid"),
        conditions=tuple(_conditions(status.get("conditions"))),
        rejection=rejection,
    )


def _conditions(entries: object) -> Iterator[PolicyCondition]:
    for entry in entries[:_MAX_CONDITIONS] if isinstance(entries, list) else ():
        fields = mapping(entry)
        if text(fields, "type") == CONDITION_TYPE:
            yield PolicyCondition(
                type=CONDITION_TYPE,
                status=text(fields, "status"),
                reason=text(fields, "reason"),
                message=text(fields, "message"),
                observed_generation=number(fields, "observedGeneration"),
                last_transition_time=text(fields, "lastTransitionTime"),
            )
