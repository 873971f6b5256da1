"""An exporter of flow records that runs while a test does."""

import asyncio
import contextlib

from collections.abc import AsyncIterator
from typing import TypeVar

from netpolq.flows.export.exporter import Exporter

AnyExporter = TypeVar("AnyExporter", bound=Exporter)


@contextlib.asynccontextmanager
async def running(exporter: AnyExporter) -> AsyncIterator[AnyExporter]:
    """The exporter, which has begun; it is cancelled at the end."""
    task = asyncio.create_task(exporter.run())
    await asyncio.sleep(0)
    try:
        yield exporter
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
