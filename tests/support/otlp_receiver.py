"""An OTLP receiver: a real HTTP server in a process of its own, which decodes with the official classes and writes down what it accepts.

    python -m tests.support.otlp_receiver PORT FILE [ANSWER…]

FILE gets a line of JSON for each accepted request, before the answer. Each ANSWER is for one request, in order; afterwards all are `ok`:

    ok                  200                       lost        accepted, and the connection closed without an answer
    N                   an error of this status   slow        accepted, and answered only when the process is stopped
    503:SECONDS         with Retry-After          partial:N   200, N records rejected
    garbage, html       200 with such a content   noise       bytes that are not HTTP
"""

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path

from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

PROTOBUF = "application/x-protobuf"


class Receiver:
    """Serves one process's answers."""

    def __init__(self, file: Path, answers: list[str]) -> None:
        self._file = file
        self._answers = answers

    async def export(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        answer = self._answers.pop(0) if self._answers else "ok"
        kind, _colon, argument = answer.partition(":")
        if kind.isdecimal():
            self._note(content, request, is_accepted=False)
            said = ExportLogsPartialSuccess(error_message=f"refused {request.headers.get('authorization', '')}")
            headers = {"Retry-After": argument} if argument else {}
            return web.Response(status=int(kind), body=said.SerializeToString(), content_type=PROTOBUF, headers=headers)
        if kind == "noise":
            assert request.transport is not None
            request.transport.write(b"\x00\x01 noise\r\n\r\n")
            request.transport.close()
            return web.Response()
        self._note(content, request, is_accepted=True)
        match kind:
            case "lost":
                assert request.transport is not None
                request.transport.abort()
            case "slow":
                await asyncio.Event().wait()
            case "garbage":
                return web.Response(body=b"\xff\xff\xff\xff", content_type=PROTOBUF)
            case "html":
                return web.Response(text="<p>Log in</p>", content_type="text/html")
            case "partial":
                partial = ExportLogsPartialSuccess(rejected_log_records=int(argument), error_message="too old")
                body = ExportLogsServiceResponse(partial_success=partial).SerializeToString()
                return web.Response(body=body, content_type=PROTOBUF)
        return web.Response(body=ExportLogsServiceResponse().SerializeToString(), content_type=PROTOBUF)

    def _note(self, content: bytes, request: web.Request, *, is_accepted: bool) -> None:
        if request.headers.get("content-encoding") == "gzip" and content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        message = ExportLogsServiceRequest.FromString(content)
        logs = [log for origin in message.resource_logs for scope in origin.scope_logs for log in scope.log_records]
        line = {
            "accepted": is_accepted,
            "type": request.content_type,
            "authorization": request.headers.get("authorization"),
            "encoding": request.headers.get("content-encoding"),
            "bytes": len(content),
            "numbers": [_attribute(log, "netpolq.connections") for log in logs],
            "uids": [_attribute(log, "log.record.uid") for log in logs],
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _attribute(log: object, key: str) -> object:
    for pair in log.attributes:  # type: ignore[attr-defined]
        if pair.key == key:
            return getattr(pair.value, pair.value.WhichOneof("value"))
    return None


@contextlib.contextmanager
def receiver(port: int, file: Path, *answers: str) -> Iterator[subprocess.Popen[bytes]]:
    """A receiver that listens; killed at the end."""
    read_end, write_end = os.pipe()
    argv = [sys.executable, "-m", "tests.support.otlp_receiver", str(port), str(file), *answers]
    process = subprocess.Popen(argv, stdout=write_end)
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as said:
            assert said.readline() == b"listening\n"
        yield process
    finally:
        process.kill()
        process.wait()


def requests(file: Path) -> list[dict[str, object]]:
    """What receivers have written down."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def accepted_numbers(file: Path) -> list[int]:
    found: list[int] = []
    for request in requests(file):
        numbers = request["numbers"]
        assert isinstance(numbers, list)
        found += numbers if request["accepted"] else []
    return found


async def _serve(port: int, file: Path, answers: list[str]) -> None:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/logs", Receiver(file, answers).export)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
