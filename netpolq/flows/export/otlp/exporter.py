"""Sends flow records to an OpenTelemetry collector. Why not with the SDK's processor and exporter: docs/decisions/flow-export.md."""

import asyncio
import gzip
import os
import random
import secrets
import time

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import ClassVar, NamedTuple

import aiohttp

from netpolq.flows.export.backlog import Batch
from netpolq.flows.export.exporter import MAX_WAITING, Exporter, Failed, Outcome, Sent
from netpolq.flows.export.otlp.answer import outcome_of
from netpolq.flows.export.otlp.encoding import encode_request
from netpolq.flows.export.otlp.environment import ConfigurationError, OtlpEnvironment, without_secrets

MAX_RECORDS = 512
"""Records in a request: about half a megabyte. Source: the default of OTEL_BLRP_MAX_EXPORT_BATCH_SIZE."""
_MAX_ANSWER_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. `request_s`: limit of a request, the default of OTEL_EXPORTER_OTLP_TIMEOUT. `first_delay_s`, `max_delay_s`: back-off."""

    request_s: float = 10.0
    first_delay_s: float = 1.0
    max_delay_s: float = 30.0

    def delay_s(self, failures: int, noise: float) -> float:
        """The pause after so many failures in a row. `noise`: 0 to 1, so that the agents of a cluster do not come back at once."""
        return min(self.first_delay_s * 2.0 ** min(failures - 1, 20), self.max_delay_s) * (0.5 + noise)


class _Request(NamedTuple):
    content: bytes
    headers: Mapping[str, str]


class OtlpExporter(Exporter):
    """POSTs to `url`, one request at a time. `node`: its name. `noise`: random numbers from 0 to 1."""

    name: ClassVar[str] = "otlp"

    def __init__(
        self,
        url: str,
        *,
        node: str,
        environment: OtlpEnvironment,
        capacity: int = MAX_WAITING,
        timing: Timing | None = None,
        noise: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(url, capacity=capacity, batch_size=MAX_RECORDS)
        self._environment = environment
        self._timing = Timing() if timing is None else timing
        self._noise = noise
        self._version = version("netpolq")
        self._own_attributes = {"service.name": "netpolq", "service.version": self._version, "k8s.node.name": node}
        self._process_id = secrets.token_hex(8)
        self._session: aiohttp.ClientSession | None = None
        self._failures = 0

    async def _send(self, batch: Batch) -> Outcome:
        delay_s = self._timing.delay_s(self._failures + 1, self._noise())
        secret: list[str] = []
        try:
            request = await asyncio.to_thread(self._request, batch)
            secret += request.headers.values()
            outcome = await self._post(request, len(batch.records), delay_s)
        except ConfigurationError as error:
            outcome = Failed(problem=str(error), delay_s=delay_s)
        except TimeoutError:
            outcome = Failed(problem=f"no answer within {self._timing.request_s:g} s", delay_s=delay_s)
        except (aiohttp.ClientError, OSError) as error:
            outcome = Failed(problem=_reason(error), delay_s=delay_s)
        if isinstance(outcome, Failed):
            self._failures += 1
            await self._close()  # the next attempt resolves the name again, and reads the certificates again
            return replace(outcome, problem=without_secrets(outcome.problem, secret))
        self._failures = 0
        if isinstance(outcome, Sent) and outcome.problem is not None:
            return replace(outcome, problem=without_secrets(outcome.problem, secret))
        return outcome

    def _request(self, batch: Batch) -> _Request:
        """Runs in a thread: encoding, and files that may be on a slow disk. Raises `ConfigurationError`."""
        headers = self._environment.read_headers()
        content = encode_request(
            batch.records,
            [f"{self._process_id}-{batch.first + index}" for index in range(len(batch.records))],
            resource=self._environment.attributes(self._own_attributes),
            version=self._version,
            observed_s=max(record.window_start_s + record.window_s for record in batch.records),
        )
        headers["content-type"] = "application/x-protobuf"
        if self._environment.is_compressed:
            content = gzip.compress(content, compresslevel=1)
            headers["content-encoding"] = "gzip"
        return _Request(content, headers)

    async def _post(self, request: _Request, count: int, delay_s: float) -> Outcome:
        session = await self._opened()
        async with session.post(self.target, data=request.content, headers=request.headers, allow_redirects=False) as response:
            content = await _read_at_most(response.content, _MAX_ANSWER_BYTES)
            return outcome_of(response.status, response.headers, content, count=count, delay_s=delay_s, now_s=time.time())

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            is_https = self.target.startswith("https:")
            context = await asyncio.to_thread(self._environment.tls) if is_https else None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, ssl=True if context is None else context),
                timeout=aiohttp.ClientTimeout(total=self._timing.request_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # an answer of 64 KiB must stay one
                headers={"User-Agent": f"netpolq/{self._version}", "Accept-Encoding": "identity"},
            )
        return self._session

    async def _close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _reason(error: aiohttp.ClientError | OSError) -> str:
    """Why there was no answer, in short: aiohttp repeats the address, and with asyncio in two forms."""
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        cause = error.os_error
        number = cause.errno or 0  # negative if it is of name resolution
        return f"cannot connect: {os.strerror(number) if number > 0 else cause.strerror or cause}"
    return str(error) or type(error).__name__


async def _read_at_most(stream: aiohttp.StreamReader, limit: int) -> bytes:
    """The beginning of the content."""
    found = b""
    while len(found) < limit and (part := await stream.read(limit - len(found))):
        found += part
    return found
