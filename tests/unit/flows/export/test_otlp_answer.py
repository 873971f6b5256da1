"""What an answer means, for contents and headers that a usual receiver does not send."""

import pytest

from netpolq.flows.export.exporter import Failed, Outcome, Sent, TooLarge
from netpolq.flows.export.otlp.answer import MAX_RETRY_AFTER_S, outcome_of

NOW_S = 1_700_000_000.0  # 14 November 2023, 22:13:20


def answer(status: int, content: bytes = b"", *, count: int = 5, **headers: str) -> Outcome:
    named = {name.replace("_", "-").title(): text for name, text in headers.items()}
    return outcome_of(status, named, content, count=count, delay_s=2.0, now_s=NOW_S)


@pytest.mark.parametrize(
    ("retry_after", "delay_s"),
    [
        ("7", 7.0),
        ("0", 2.0),
        ("-3", 2.0),
        ("1e9", MAX_RETRY_AFTER_S),
        ("inf", 2.0),
        ("nan", 2.0),
        ("soon", 2.0),
        ("Tue, 14 Nov 2023 22:14:00 GMT", 40.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 2.0),
        ("Tue, 14 Nov 9999 22:00:00 GMT", MAX_RETRY_AFTER_S),
    ],
)
def test_the_time_that_a_receiver_asks_for_is_bounded(retry_after: str, delay_s: float) -> None:
    found = answer(503, retry_after=retry_after)
    assert isinstance(found, Failed)
    assert found.delay_s == delay_s


@pytest.mark.parametrize("status", [200, 202, 204])
def test_every_success_without_content_is_one(status: int) -> None:
    assert answer(status) == Sent()


@pytest.mark.parametrize("status", [400, 405 + 4, 422, 500, 501, 599, 999])
def test_other_errors_reject(status: int) -> None:
    found = answer(status)
    assert isinstance(found, Sent)
    assert found.rejected == 5


def test_more_rejections_than_records_are_no_more_than_these() -> None:
    """`rejected_log_records` = 2^40 in field 1 of field 1."""
    found = answer(200, b"\x0a\x07\x08\x80\x80\x80\x80\x80\x20", content_type="application/x-protobuf")
    assert isinstance(found, Sent)
    assert found.rejected == 5


def test_a_negative_number_of_rejections_is_none() -> None:
    found = answer(200, b"\x0a\x0b\x08" + b"\xff" * 9 + b"\x01", content_type="application/x-protobuf")
    assert found == Sent()


def test_too_large_concerns_the_request_only_while_it_can_be_divided() -> None:
    assert answer(413) == TooLarge()
    assert isinstance(answer(413, count=1), Sent)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 70_000, b"<html>"], ids=["binary", "long", "html"])
@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", "application/x-protobuf", "text/html", "\xff"])
@pytest.mark.parametrize("status", [200, 400, 503])
def test_no_content_breaks_the_reader(status: int, content: bytes, content_type: str) -> None:
    assert isinstance(answer(status, content, content_type=content_type), (Sent, Failed))
