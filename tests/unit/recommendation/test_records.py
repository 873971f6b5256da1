"""Flow records from a file: what is refused, and how the error names it."""

import io
import json

from pathlib import Path
from typing import Any

import pytest

from netpolq.errors import NetpolqError
from netpolq.recommendation import records
from netpolq.recommendation.records import read_file, read_lines
from tests.support.seen_flows import line, pod


def test_records_are_read_and_empty_lines_left_out(tmp_path: Path) -> None:
    path = tmp_path / "flows.jsonl"
    path.write_text(f"{line(pod('shop/web'), pod('shop/db'))}\n\n{line(pod('shop/web'), pod('shop/db'), port=81)}")
    first, second = read_file(str(path))
    assert (first.flow.port, second.flow.port) == (80, 81)
    assert first.flow.source is second.flow.source, "equal ends are one object"


def changed(field: str, value: object) -> str:
    body: dict[str, Any] = json.loads(line(pod("shop/web"), pod("shop/db")))
    *path, last = field.split(".")
    target = body
    for name in path:
        target = target[name]
    target[last] = value
    return json.dumps(body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "flows:2: not a JSON object"),
        ("[]", "flows:2: not a JSON object"),
        (changed("port", "http"), "flows:2: field port: must be a number"),
        (changed("verdict", "maybe"), "flows:2: field verdict: 'maybe' is none of accept"),
        (changed("last_seen", "yesterday"), "flows:2: field last_seen: 'yesterday' is not a time"),
        (changed("protocol", "FOO"), "flows:2: field protocol: 'FOO' must be TCP"),
        (changed("source.namespace", None), "flows:2: field source: namespace and pod must both be given"),
        (changed("source.namespace", "A_B"), "flows:2: field source.namespace: must be a DNS label"),
        (changed("destination.pod", "-"), "flows:2: field destination.pod: must be a DNS subdomain"),
        (changed("destination.labels", {"a b": "c"}), "flows:2: field destination.labels: not a label key: 'a b'"),
        (changed("destination.labels", {"a": "ü"}), "flows:2: field destination.labels['a']: not a label value"),
        (changed("source.address", "other"), "flows:2: field source.address: must be an IP address"),
        (changed("source.address", "224.0.0.1"), "flows:2: field source.address: 224.0.0.1 cannot be the address of a pod"),
        ("x" * 300_000, "flows:2: longer than 262144 bytes"),
    ],
)
def test_a_line_that_is_no_record_is_named_with_its_field(text: str, message: str) -> None:
    stream = io.BytesIO(f"{line(pod('shop/web'), pod('shop/db'))}\n{text}\n".encode())
    with pytest.raises(NetpolqError) as caught:
        read_lines(stream, "flows")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_records_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORDS", 1)
    text = f"{line(pod('shop/web'), pod('shop/db'))}\n" * 2
    with pytest.raises(NetpolqError, match="flows: more than 1 records"):
        read_lines(io.BytesIO(text.encode()), "flows")


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(NetpolqError, match="--flows '/nowhere': No such file or directory"):
        read_file("/nowhere")
