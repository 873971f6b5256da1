"""The document with the settings of an agent: what `encode` writes, `decode` reads; everything else it rejects by the field's name."""

import dataclasses
import json
import os
import string

from pathlib import Path

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.enums import Dataplane, DenyWith, FlowsMode, HoldUnknown, LoggingFormat, NodeEgress, PolicyMetrics, VerdictCacheMode
from netpolq.errors import ExitCode, SettingsError
from netpolq.hold.ranges import parse_ranges
from netpolq.ipc.agent_settings import MAX_CT_LABEL, MAX_QUEUE, MAX_WORKERS, BindAddress, Settings
from netpolq.ipc.settings_document import FLAGS, changed_flags, decode, encode
from netpolq.settings import resolve
from netpolq.settings.definitions import FILE_OPTIONS

# File names are bytes: those that are not UTF-8 are lone surrogates in Python.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30) | st.binary(max_size=9).map(os.fsdecode)
names = st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=20)
paths = texts.filter(bool).map(Path)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    queue_first = draw(st.integers(0, MAX_QUEUE))
    return Settings(
        kubeconfig=draw(texts),
        manifests=draw(st.none() | paths),
        fail_open=draw(st.booleans()),
        pod_cidrs=draw(st.sampled_from([(), parse_ranges("10.0.0.0/8,fd00::/64")])),
        cni_conf_dir=draw(st.none() | paths),
        cni_results=draw(st.none() | paths),
        hold_unknown=draw(st.sampled_from(HoldUnknown)),
        hold_timeout_s=draw(st.integers(1, 30)),
        hold_unknown_peers=draw(st.sampled_from([(), parse_ranges("10.0.0.0/8,fd00::/64")])),
        pod_interfaces=tuple(draw(st.lists(names, max_size=3))),
        dns_servers=tuple(draw(st.lists(st.ip_addresses().map(str), max_size=3))),
        dns_min_ttl_s=draw(st.integers(0, 86400)),
        dns_grace_s=draw(st.integers(0, 86400)),
        queue_first=queue_first,
        queue_count=draw(st.integers(1, min(MAX_WORKERS, MAX_QUEUE + 1 - queue_first))),
        metrics_bind_address=BindAddress(draw(st.just("") | names | st.ip_addresses().map(str)), draw(st.integers(0, 65535))),
        hostname=draw(names),
        netfilter_bug_1766_fix=draw(st.none() | st.booleans()),
        disable_nri=draw(st.booleans()),
        strict_mode=draw(st.booleans()),
        takeover=draw(st.booleans()),
        verbosity=draw(st.integers(0, 10)),
        log_denied=draw(st.booleans()),
        audit=draw(st.booleans()),
        flows=draw(st.sampled_from(FlowsMode)),
        policy_metrics=draw(st.sampled_from(PolicyMetrics)),
        flow_records=draw(st.integers(1000, 1_000_000)),
        flow_bytes=draw(st.booleans()),
        policy_status=draw(st.booleans()),
        events=draw(st.booleans()),
        flow_export_file=draw(st.none() | paths),
        flow_export_file_max_bytes=draw(st.integers(1 << 20, 1 << 40)),
        flow_export_file_keep=draw(st.integers(0, 1000)),
        flow_export_otlp=draw(texts),
        flow_export_otlp_headers_file=draw(st.none() | paths),
        report_bind_address=draw(st.none() | st.just(BindAddress("", 9443))),
        report_tls_certificate=draw(st.none() | paths),
        report_tls_key=draw(st.none() | paths),
        report_tls_client_ca=draw(st.none() | paths),
        report_tls_client_name=draw(names),
        fanout=draw(st.booleans()),
        dataplane=draw(st.sampled_from(Dataplane)),
        mark_mask=0b111 << draw(st.integers(0, 29)),
        ct_label=draw(st.integers(0, MAX_CT_LABEL)),
        node_egress=draw(st.sampled_from(NodeEgress)),
        deny_with=draw(st.sampled_from(DenyWith)),
        verdict_cache_mode=draw(st.sampled_from(VerdictCacheMode)),
        verdict_cache_ttl_s=draw(st.integers(1, 86400)),
        verdict_cache_size=draw(st.integers(2, 1 << 20)),
        run_dir=Path("/") / draw(names),
        logging_format=draw(st.sampled_from(LoggingFormat)),
    )


def example() -> dict[str, object]:
    document: dict[str, object] = json.loads(encode(resolve(["--pod-cidrs=10.0.0.0/8", "--workers=2"], {})))
    return document


def rejection(document: object) -> str:
    with pytest.raises(SettingsError) as caught:
        decode(document if isinstance(document, str) else json.dumps(document))
    assert caught.value.exit_code == ExitCode.USAGE
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@given(settings())
def test_settings_survive_the_way_through_the_document(found: Settings) -> None:
    """Types too: a mode is a mode again and not a text. The document can be an argument of a program."""
    text = encode(found)
    assert text.isascii()
    again = decode(text)
    assert again == found
    assert [type(getattr(again, field.name)) for field in dataclasses.fields(again)] == [
        type(getattr(found, field.name)) for field in dataclasses.fields(found)
    ]


def test_a_field_has_the_name_of_its_flag() -> None:
    """`--queue-balance` is another form of two of them."""
    assert {option.name for option in FILE_OPTIONS} - {"queue-balance"} == FLAGS == example().keys()


def test_a_field_that_is_unknown_or_missing_is_named() -> None:
    assert rejection({**example(), "wrokers": 1}) == "settings, field 'wrokers': does not exist"
    for name in FLAGS:
        document = example()
        del document[name]
        assert rejection(document) == f"settings, field {name!r}: is missing"


@pytest.mark.parametrize("value", [1.5, {}, ["10.0.0.0/8", 1]], ids=str)
@pytest.mark.parametrize("name", sorted(FLAGS))
def test_a_field_of_a_wrong_type_is_named(name: str, value: object) -> None:
    assert rejection({**example(), name: value}).startswith(f"settings, field {name!r}: invalid value ")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("workers", True, "must be an integer"),
        ("workers", "2", "must be an integer"),
        ("workers", 0, "must be from 1 to 256"),
        ("workers", 257, "must be from 1 to 256"),
        ("v", -1, "must be from 0 to 10"),
        ("v", None, "must be an integer"),
        ("fail-open", 1, "must be true or false"),
        ("fail-open", None, "must be true or false"),
        ("dataplane", "iptables", "must be one of auto, native, compat"),
        ("run-dir", None, "must be a string"),
        ("metrics-bind-address", "9080", "must be HOST:PORT"),
        ("pod-cidrs", "10.0.0.0/8", "must be a list of address ranges"),
        ("pod-cidrs", ["10.0.0.1/8"], "has host bits set"),
    ],
)
def test_an_invalid_value_is_named_with_what_is_allowed(name: str, value: object, allowed: str) -> None:
    message = rejection({**example(), name: value})
    assert message.startswith(f"settings, field {name!r}: invalid value {value!r}: ")
    assert allowed in message


@pytest.mark.parametrize("text", ["", "--v=3", "[]", "null", '{"v": 0'])
def test_what_is_no_object_is_rejected(text: str) -> None:
    assert "netpolq run" in rejection(text)


@pytest.mark.parametrize("name", ["manifests", "cni-conf-dir", "netfilter-bug-1766-fix"])
def test_null_stands_for_a_setting_that_is_not_given(name: str) -> None:
    decode(json.dumps({**example(), name: None}))


def test_changed_flags_have_their_new_values_as_texts() -> None:
    before = resolve(["--workers=2"], {})
    after = resolve(["--workers=3", "--log-denied", "--v=2", "--metrics-bind-address=[::1]:1", "--manifests=/m"], {})
    assert changed_flags(before, after) == {
        "--workers": "3",
        "--log-denied": "true",
        "--v": "2",
        "--metrics-bind-address": "[::1]:1",
        "--manifests": "/m",
    }
    assert changed_flags(after, after) == {}
