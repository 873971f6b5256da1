"""A flow record as an OTLP log, read by the official classes."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_INFO, SEVERITY_NUMBER_WARN

from netpolq.flows.export.otlp.encoding import _field, _varint, encode_request
from netpolq.flows.record import OTHER_ADDRESSES, Flow, FlowEnd, FlowRecord, FlowVerdict
from tests.support.flow_records import ACCEPTED_FLOW, ALLOWED, DENIED, DENIED_FLOW, NAMED, OUTSIDE, WEB, record, records


def request_of(found: Sequence[FlowRecord]) -> ExportLogsServiceRequest:
    content = encode_request(
        found,
        [f"id-{number}" for number in range(len(found))],
        resource={"service.name": "netpolq", "k8s.node.name": "node-1"},
        version="1.2.3",
        observed_s=1_700_000_015.0,
    )
    return ExportLogsServiceRequest.FromString(content)


def plain(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    assert kind is not None
    found = getattr(value, kind)
    return [plain(item) for item in found.values] if kind == "array_value" else found


def attributes(pairs: Sequence[KeyValue]) -> dict[str, object]:
    found = {pair.key: plain(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "each key is there once"
    return found


def test_an_accepted_flow() -> None:
    request = request_of([replace(record(3), packets=40, octets=5000)])
    (origin,) = request.resource_logs
    (scope,) = origin.scope_logs
    (log,) = scope.log_records
    assert attributes(origin.resource.attributes) == {"service.name": "netpolq", "k8s.node.name": "node-1"}
    assert (scope.scope.name, scope.scope.version) == ("netpolq.flows", "1.2.3")
    assert (log.time_unix_nano, log.observed_time_unix_nano) == (1_700_000_009_500_000_000, 1_700_000_015_000_000_000)
    assert (log.severity_number, log.severity_text, log.event_name) == (SEVERITY_NUMBER_INFO, "INFO", "netpolq.flow")
    assert log.body.string_value == (
        "accept TCP shop/web-1 (10.0.0.1) -> shop/db-0 (10.0.0.2) port 5432, 3 connections: "
        "ingress allowed by shop/db, spec.ingress[0]"
    )
    assert attributes(log.attributes) == {
        "log.record.uid": "id-0",
        "network.transport": "tcp",
        "network.type": "ipv4",
        "source.address": "10.0.0.1",
        "source.k8s.namespace.name": "shop",
        "source.k8s.pod.name": "web-1",
        "source.k8s.pod.label.app": "web",
        "source.k8s.pod.label.tier": "front",
        "destination.address": "10.0.0.2",
        "destination.port": 5432,
        "destination.k8s.namespace.name": "shop",
        "destination.k8s.pod.name": "db-0",
        "destination.k8s.pod.label.app": "db",
        "netpolq.verdict": "accept",
        "netpolq.connections": 3,
        "netpolq.packets": 40,
        "netpolq.bytes": 5000,
        "netpolq.first_seen_unix_nano": 1_700_000_001_250_000_000,
        "netpolq.window.start_unix_nano": 1_700_000_000_000_000_000,
        "netpolq.window.seconds": 15.0,
        "netpolq.ingress.decision": "ingress allowed by shop/db, spec.ingress[0]",
        "netpolq.ingress.action": "accept",
        "netpolq.ingress.tier": ALLOWED.tier.label,  # type: ignore[union-attr]
        "netpolq.ingress.policies": ["shop/db"],
        "netpolq.ingress.rule": 0,
    }


def test_a_denied_flow_is_a_warning() -> None:
    (log,) = request_of([record(1, DENIED_FLOW)]).resource_logs[0].scope_logs[0].log_records
    assert (log.severity_number, log.severity_text) == (SEVERITY_NUMBER_WARN, "WARN")
    assert log.body.string_value == (
        "deny UDP shop/web-1 (10.0.0.1) -> api.example.com (2001:db8::1) port 53, 1 connection: "
        "egress isolated by shop/default, shop/web"
    )
    found = attributes(log.attributes)
    assert found["netpolq.destination.names"] == ["api.example.com", "www.example.com"]
    assert found["network.type"] == "ipv6"
    assert found["netpolq.egress.policies"] == ["shop/default", "shop/web"]
    assert found["netpolq.egress.action"] == "deny"
    assert "netpolq.egress.rule" not in found
    assert not any(key.startswith("destination.k8s") for key in found)


@pytest.mark.parametrize(
    ("verdict", "severity"),
    [
        (FlowVerdict.ACCEPT, SEVERITY_NUMBER_INFO),
        (FlowVerdict.WOULD_DENY, SEVERITY_NUMBER_INFO),
        (FlowVerdict.DENY, SEVERITY_NUMBER_WARN),
        (FlowVerdict.WOULD_ACCEPT, SEVERITY_NUMBER_WARN),
    ],
)
def test_the_severity_follows_what_was_enforced(verdict: FlowVerdict, severity: int) -> None:
    (log,) = request_of([record(1, ACCEPTED_FLOW._replace(verdict=verdict))]).resource_logs[0].scope_logs[0].log_records
    assert log.severity_number == severity


def test_policies_in_audit_have_attributes_of_their_own() -> None:
    flow = Flow(WEB, OUTSIDE, "TCP", 80, FlowVerdict.WOULD_DENY, audit_egress=NAMED)
    (log,) = request_of([record(1, flow)]).resource_logs[0].scope_logs[0].log_records
    found = attributes(log.attributes)
    assert (found["netpolq.audit.egress.rule"], found["netpolq.audit.egress.rule_name"]) == (2, "metadata")
    assert "netpolq.egress.decision" not in found
    assert "no policy; in audit: egress denied by" in log.body.string_value


def test_a_flow_without_port_pods_and_policies() -> None:
    flow = Flow(FlowEnd("10.9.9.9"), FlowEnd(OTHER_ADDRESSES), "ICMP", None, FlowVerdict.ACCEPT)
    (log,) = request_of([record(2, flow)]).resource_logs[0].scope_logs[0].log_records
    assert log.body.string_value == "accept ICMP 10.9.9.9 -> other, 2 connections: no policy"
    found = attributes(log.attributes)
    assert "destination.port" not in found
    assert "network.type" not in found


def test_the_body_is_one_line() -> None:
    flow = DENIED_FLOW._replace(destination=FlowEnd("10.0.0.9", names=("a\nb",)), egress=DENIED)
    (log,) = request_of([record(1, flow)]).resource_logs[0].scope_logs[0].log_records
    assert "a\\nb" in log.body.string_value


def test_many_records_keep_their_order_and_are_not_mixed_up() -> None:
    """What they have in common is encoded once."""
    found = [record(number, flow) for number in range(1, 400) for flow in (ACCEPTED_FLOW, DENIED_FLOW)] + records(400, 300)
    logs = request_of(found).resource_logs[0].scope_logs[0].log_records
    assert [attributes(log.attributes)["netpolq.connections"] for log in logs] == [one.connections for one in found]
    for log, one in zip(logs, found, strict=True):
        pairs = attributes(log.attributes)
        assert pairs["source.k8s.pod.name"] == one.flow.source.pod
        assert pairs["destination.address"] == one.flow.destination.address


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16383, 16384, 3_000_000])
def test_a_field_has_the_form_that_the_official_classes_write(length: int) -> None:
    content = bytes(length)
    assert AnyValue.FromString(_field(AnyValue.DESCRIPTOR.fields_by_name["bytes_value"].number, content)).bytes_value == content
    assert len(_varint(length)) == (max(length.bit_length(), 1) + 6) // 7
