"""The export of flow records as one part of the supervisor: whatever exporters the settings ask for."""

import asyncio

from collections.abc import Sequence

from netpolq.flows.export.exporter import Exporter
from netpolq.flows.record import FlowRecord


class FlowExport:
    """Gives each record to all exporters. They do not wait for each other."""

    def __init__(self, exporters: Sequence[Exporter]) -> None:
        self.exporters = tuple(exporters)

    def offer(self, records: Sequence[FlowRecord]) -> None:
        """Export these records of a closed window. Neither blocks nor raises; called in the thread of the event loop."""
        for exporter in self.exporters:
            exporter.offer(records)

    async def run(self) -> None:
        """Export until cancelled, and then what still waits, within a second."""
        async with asyncio.TaskGroup() as tasks:
            for exporter in self.exporters:
                tasks.create_task(exporter.run())

    @property
    def problems(self) -> list[str]:
        """Why records wait or were rejected."""
        return [exporter.problem for exporter in self.exporters if exporter.problem is not None]
