"""Sender of the body of one answer, with faults."""

import asyncio
import zlib

from collections.abc import Sequence
from contextlib import suppress

from aiohttp import web

from tests.support.apiserver.faults import CutBody, Fault, Slow

_GZIP_LEVEL = 1  # as the real server: k8s.io/apiserver/pkg/endpoints/handlers/responsewriters
_STEP_S = 0.02


class ConnectionCutError(Exception):
    """The answer cannot go on, because a fault has cut its connection."""


def cut(request: web.BaseRequest) -> None:
    """End the connection of a request at once, without a word."""
    if request.transport is not None:
        request.transport.abort()


class Wire:
    """Sends a body piece by piece; `bytes_sent` counts what has left, after compression."""

    def __init__(self, request: web.Request, faults: Sequence[Fault], *, compress: bool = False) -> None:
        self._request = request
        self._bytes_per_s = next((fault.bytes_per_s for fault in faults if isinstance(fault, Slow)), None)
        self._cut_after_bytes = next((fault.after_bytes for fault in faults if isinstance(fault, CutBody)), None)
        self._compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS) if compress else None
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if compress:
            self.response.headers["Content-Encoding"] = "gzip"
            self.response.headers["Vary"] = "Accept-Encoding"
        self.bytes_sent = 0

    async def open(self) -> None:
        """Send the headers."""
        await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Send a piece. Raises `ConnectionCutError`."""
        if self._compressor:
            data = await asyncio.to_thread(self._compressor.compress, data)
        await self._send(data)

    async def close(self) -> None:
        """Send the end. Raises `ConnectionCutError`."""
        if self._compressor:
            await self._send(self._compressor.flush())
        with suppress(ConnectionError):
            await self.response.write_eof()

    def cut(self) -> None:
        """End the connection in the middle of the body. Always raises `ConnectionCutError`."""
        cut(self._request)
        raise ConnectionCutError

    async def _send(self, data: bytes) -> None:
        limit = self._cut_after_bytes
        if limit is not None and self.bytes_sent + len(data) >= limit:
            await self._pace(data[: limit - self.bytes_sent])
            await asyncio.sleep(_STEP_S)  # what is cut at once has never left the buffer
            self.cut()
        await self._pace(data)

    async def _pace(self, data: bytes) -> None:
        step = max(1, int(self._bytes_per_s * _STEP_S)) if self._bytes_per_s else max(1, len(data))
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            try:
                await self.response.write(piece)
            except ConnectionError as error:
                raise ConnectionCutError from error
            self.bytes_sent += len(piece)
            if self._bytes_per_s:
                await asyncio.sleep(len(piece) / self._bytes_per_s)


def accepts_gzip(request: web.Request) -> bool:
    """Whether the client has asked for it."""
    return "gzip" in request.headers.get("Accept-Encoding", "")
