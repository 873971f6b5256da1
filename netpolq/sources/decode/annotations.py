"""Reader of the agent's own annotations of namespaces and policies. Of other annotations nothing is read.

An invalid value is reported and counts as none: then a denial is answered as by default, and a policy is enforced.
"""

from enum import StrEnum
from typing import TypeVar

from netpolq.enums import DenyWith, Enforcement
from netpolq.sources.decode.fields import Field, FieldError, Report, shown

DENY_WITH_ANNOTATION = "netpolq.io/deny-with"
ENFORCEMENT_ANNOTATION = "policy.netpolq.io/enforcement"

_Value = TypeVar("_Value", bound=StrEnum)


def deny_with(metadata: Field, report: Report) -> DenyWith | None:
    """Whether denied connections get an answer; None without the annotation."""
    return _annotation(DENY_WITH_ANNOTATION, DenyWith, metadata, report)


def enforcement(metadata: Field, report: Report) -> Enforcement | None:
    """Whether policies are enforced or in audit; None without the annotation."""
    return _annotation(ENFORCEMENT_ANNOTATION, Enforcement, metadata, report, is_first=False)


def _annotation(name: str, kind: type[_Value], metadata: Field, report: Report, *, is_first: bool = True) -> _Value | None:
    """The value of an annotation; None without one. `is_first`: annotations that cannot be read at all are reported here."""
    try:
        annotations = metadata.get("annotations")
        value = annotations.mapping().get(name)
    except FieldError as error:
        if is_first:
            report(error)
        return None
    if value is None:
        return None
    allowed = {member.value: member for member in kind}
    found = allowed.get(value) if isinstance(value, str) else None
    if found is None:
        report(FieldError(f"{annotations.path}[{shown(name)}]", f"must be {' or '.join(allowed)}, not {shown(value)}"))
    return found
