"""The standard variables of OpenTelemetry: what they mean here, and errors that name the place and never a value."""

from pathlib import Path

import pytest

from netpolq.flows.export.otlp.environment import ConfigurationError, OtlpEnvironment, without_secrets


def test_a_variable_for_logs_comes_before_the_one_for_all_signals() -> None:
    found = OtlpEnvironment.read(
        {
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "b=2",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca",
            "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "gzip",
        }
    )
    assert found.read_headers() == {"b": "2"}
    assert (found.certificate, found.is_compressed) == ("/ca", True)


def test_headers_are_pairs_with_percent_encoded_values() -> None:
    found = OtlpEnvironment(headers=" Authorization = Bearer%20abc== , x-scope=a%2Cb,")
    assert found.read_headers() == {"authorization": "Bearer abc==", "x-scope": "a,b"}


def test_a_file_has_a_header_a_line_and_comes_before_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_text("Authorization: Bearer abc:def==\n\nX-Scope: a,b\n")
    found = OtlpEnvironment(headers="authorization=other,x=y", headers_file=path)
    assert found.read_headers() == {"authorization": "Bearer abc:def==", "x-scope": "a,b", "x": "y"}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ("a=1,t0psecret", "OTEL_EXPORTER_OTLP_HEADERS: entry 2 must be key=value"),
        ("t0p secret=1", "OTEL_EXPORTER_OTLP_HEADERS: is not the name of a header"),
        ("a=t0psecret%0D%0AHost: x", "OTEL_EXPORTER_OTLP_HEADERS: the value of a may have printable ASCII characters only"),
        ("Content-Type=t0psecret", "OTEL_EXPORTER_OTLP_HEADERS: the exporter sets Content-Type itself"),
    ],
)
def test_a_wrong_header_is_named_without_its_value(headers: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OtlpEnvironment(headers=headers).read_headers()
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A: 1\nt0psecret", "line 2: must be Name: value"),
        (b"t0psecret x: 1", "line 1: is not the name of a header"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_wrong_line_of_the_file_is_named_without_its_text(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "headers"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        OtlpEnvironment(headers_file=path).read_headers()
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(reason)


def test_attributes_of_the_resource_come_from_the_environment_before_the_agents_own() -> None:
    own = {"service.name": "netpolq", "service.version": "1"}
    found = OtlpEnvironment(resource_attributes="k8s.cluster.name=blue%20one,service.name=np").attributes(own)
    assert found == {"service.name": "np", "service.version": "1", "k8s.cluster.name": "blue one"}
    assert OtlpEnvironment(resource_attributes="service.name=np", service_name="x").attributes(own)["service.name"] == "x"


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(ConfigurationError, match="must be gzip or none"):
        _ = OtlpEnvironment(compression="zstd").is_compressed


def test_a_missing_certificate_is_named() -> None:
    with pytest.raises(ConfigurationError, match="/missing"):
        OtlpEnvironment(certificate="/missing").tls()


def test_parts_of_header_values_are_blanked_out() -> None:
    assert without_secrets("token abcdefgh is bad", ["Bearer abcdefgh"]) == "token *** is bad"
    assert without_secrets("Basic is bad", ["Basic eHl6OnE="]) == "Basic is bad"
