"""Reader of the annotation that says whether denied connections get an answer. Of other annotations nothing is read."""

from netpolq.enums import DenyWith
from netpolq.sources.decode.fields import Field, FieldError, Report, shown

DENY_WITH_ANNOTATION = "netpolq.io/deny-with"

_VALUES = {value.value: value for value in DenyWith}


def deny_with(metadata: Field, report: Report) -> DenyWith | None:
    """The value of the annotation; None without one. An invalid value is reported and counts as none."""
    try:
        annotations = metadata.get("annotations")
        value = annotations.mapping().get(DENY_WITH_ANNOTATION)
    except FieldError as error:
        report(error)
        return None
    if value is None:
        return None
    found = _VALUES.get(value) if isinstance(value, str) else None
    if found is None:
        path = f"{annotations.path}[{shown(DENY_WITH_ANNOTATION)}]"
        report(FieldError(path, f"must be {' or '.join(_VALUES)}, not {shown(value)}"))
    return found
