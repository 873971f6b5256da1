"""What the standard variables of OpenTelemetry exporters say: headers, TLS files, compression and resource attributes.

Source: https://opentelemetry.io/docs/specs/otel/protocol/exporter/ and …/otel/configuration/sdk-environment-variables/. A variable for
logs alone comes before the one for all signals. Errors name the variable, or the file and its line, and never a value: it may be a secret.
"""

import re
import ssl

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token. Source: RFC 9110 section 5.6.2."""
_OWN_HEADERS = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection"})
_MAX_HEADERS_BYTES = 65536
_MIN_SECRET = 6
"""Shorter parts of header values are words such as `Bearer`… or `Basic`, and hide nothing."""


class ConfigurationError(Exception):
    """A variable, or a file that it names, cannot be used. Records wait until it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpEnvironment:
    """The variables, as text; empty if they are not set. `headers_file`: one `Name: value` a line, read before each request."""

    headers: str = field(default="", repr=False)
    headers_file: Path | None = None
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""
    compression: str = ""
    resource_attributes: str = ""
    service_name: str = ""

    @classmethod
    def read(cls, environ: Mapping[str, str], headers_file: Path | None = None) -> "OtlpEnvironment":
        """The variables that are set."""

        def exporter(name: str) -> str:
            return environ.get(f"OTEL_EXPORTER_OTLP_LOGS_{name}") or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")

        return cls(
            headers=exporter("HEADERS"),
            headers_file=headers_file,
            certificate=exporter("CERTIFICATE"),
            client_certificate=exporter("CLIENT_CERTIFICATE"),
            client_key=exporter("CLIENT_KEY"),
            compression=exporter("COMPRESSION"),
            resource_attributes=environ.get("OTEL_RESOURCE_ATTRIBUTES", ""),
            service_name=environ.get("OTEL_SERVICE_NAME", ""),
        )

    @property
    def is_compressed(self) -> bool:
        """Whether requests are compressed by gzip. Raises `ConfigurationError`."""
        if self.compression not in {"", "none", "gzip"}:
            raise ConfigurationError("OTEL_EXPORTER_OTLP_COMPRESSION: must be gzip or none")
        return self.compression == "gzip"

    def read_headers(self) -> dict[str, str]:
        """The headers of variable and file. Blocks. Raises `ConfigurationError`."""
        variable = "OTEL_EXPORTER_OTLP_HEADERS"
        found = {
            _checked_name(name, variable): _checked_value(text, name, variable) for name, text in _pairs(self.headers, variable)
        }
        return found if self.headers_file is None else found | _headers_in(self.headers_file)

    def attributes(self, own: Mapping[str, str]) -> dict[str, str]:
        """The attributes of the resource: `own`, unless the variables say otherwise. Raises `ConfigurationError`."""
        found = dict(own) | dict(_pairs(self.resource_attributes, "OTEL_RESOURCE_ATTRIBUTES"))
        return found | ({"service.name": self.service_name} if self.service_name else {})

    def tls(self) -> ssl.SSLContext:
        """What https needs. Blocks. Raises `ConfigurationError`."""
        try:
            context = ssl.create_default_context(cafile=self.certificate or None)
            if self.client_certificate:
                context.load_cert_chain(self.client_certificate, self.client_key or None)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(filter(None, (self.certificate, self.client_certificate, self.client_key)))
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"certificates ({files or 'of the system'}): {reason}") from error
        return context


def without_secrets(text: str, headers: Iterable[str]) -> str:
    """The text with parts of header values blanked out: a server may repeat in its answer what it was sent."""
    parts = {part for header in headers for part in header.split() if len(part) > _MIN_SECRET}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "***")
    return text


def _pairs(text: str, variable: str) -> Iterable[tuple[str, str]]:
    """The pairs of `key=value,key=value` with percent-encoded values."""
    for number, part in enumerate(text.split(","), 1):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"{variable}: entry {number} must be key=value")
        yield unquote(key.strip()), unquote(value.strip())


def _headers_in(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_HEADERS_BYTES).decode()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            name, colon, value = line.partition(":")
            place = f"{path}, line {number}"
            if not colon:
                raise ConfigurationError(f"{place}: must be Name: value")
            found[_checked_name(name.strip(), place)] = _checked_value(value.strip(), name.strip(), place)
    return found


def _checked_name(name: str, place: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigurationError(f"{place}: is not the name of a header")
    if name.lower() in _OWN_HEADERS:
        raise ConfigurationError(f"{place}: the exporter sets {name} itself")
    return name.lower()


def _checked_value(value: str, name: str, place: str) -> str:
    if not value.isprintable() or not value.isascii():
        raise ConfigurationError(f"{place}: the value of {name} may have printable ASCII characters only")
    return value
