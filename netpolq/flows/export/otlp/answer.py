"""What the answer of a collector means for the records of a request.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response. It wants other errors than 429, 502, 503 and 504 not to be retried.
There are exceptions here: refusals that say nothing about the records, but about a token, a path or a proxy. These can be repaired while
the records wait.
"""

import math

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse

from netpolq.flows.export.exporter import Failed, Outcome, Sent, TooLarge

MAX_RETRY_AFTER_S = 300.0
"""A wrong clock or a wrong number must not stop the export for a day."""
_RETRYABLE = frozenset({429, 502, 503, 504})
_NOT_ABOUT_RECORDS = frozenset({401, 403, 404, 405, 407, 408})
_PROTOBUF = "application/x-protobuf"


def outcome_of(status: int, headers: Mapping[str, str], content: bytes, *, count: int, delay_s: float, now_s: float) -> Outcome:
    """The outcome of a request with `count` records. `delay_s`: before the next attempt, unless the answer says how long."""
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if 200 <= status < 300:
        return _accepted(content_type, content, count)
    said = _text(content_type, content)
    problem = f"the answer is {status} {_phrase(status)}" + (f": {said}" if said else "")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and count > 1:
        return TooLarge()
    if status in _RETRYABLE or status in _NOT_ABOUT_RECORDS or 300 <= status < 400:
        wait_s = _retry_after_s(headers.get("Retry-After", ""), now_s)
        return Failed(problem=problem, delay_s=delay_s if wait_s is None else max(delay_s, min(wait_s, MAX_RETRY_AFTER_S)))
    return Sent(rejected=count, problem=f"{count} flow records were rejected: {problem}")


def _accepted(content_type: str, content: bytes, count: int) -> Sent:
    if not content:
        return Sent()
    if content_type != _PROTOBUF:
        return Sent(
            problem=f"the answer is {content_type or 'of no type'}, not {_PROTOBUF}; is this the URL of an OTLP receiver?"
        )
    try:
        partial = ExportLogsServiceResponse.FromString(content).partial_success
    except DecodeError:
        return Sent(problem="the answer cannot be read; is this the URL of an OTLP receiver?")
    if partial.rejected_log_records <= 0:
        return Sent(problem=f"the receiver warns: {partial.error_message}" if partial.error_message else None)
    rejected = min(partial.rejected_log_records, count)
    return Sent(
        rejected=rejected, problem=f"{rejected} of {count} flow records were rejected: {partial.error_message or 'no reason'}"
    )


def _text(content_type: str, content: bytes) -> str:
    """What an error says, or empty."""
    if content_type == _PROTOBUF:
        try:
            # google.rpc.Status, whose message is a text in field 2, as the message of a partial success is.
            return ExportLogsPartialSuccess.FromString(content).error_message
        except DecodeError:
            return ""
    is_text = content_type.startswith("text/plain") or content_type == "application/json"
    return content.decode(errors="replace").strip() if is_text else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _retry_after_s(text: str, now_s: float) -> float | None:
    """Seconds of the header: a number or a date. None if it is neither. Source: RFC 9110 section 10.2.3."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_s
        except (TypeError, ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
