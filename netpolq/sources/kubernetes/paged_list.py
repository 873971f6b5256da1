"""Complete state of one resource, read as a list in pages."""

import asyncio

from collections.abc import Callable

from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.replica import Replica
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import StatusError, StreamError, read_list


class PagedList:
    """Lists a resource in pages; after the pages expired on the way, everything at once, until a list has succeeded.

    The request asks for no version. With "0", many servers answer from their cache and ignore the limit: for a hundred thousand pods
    the body has most of a gigabyte.
    """

    def __init__(self, connection: Connection, timing: Timing) -> None:
        self._connection = connection
        self._timing = timing
        self._has_pages = True

    async def read(self, replica: Replica, on_contact: Callable[[], None]) -> str:
        """Add every page to the replica. Returns the version of the list. Calls `on_contact` for each page that arrives."""
        query = {"limit": str(self._timing.page_objects)} if self._has_pages else {}
        replica.begin()
        while True:
            try:
                body = await self._connection.get(replica.resource.path, query, timeout_s=self._timing.request_s)
            except StatusError as error:
                if error.is_expired and "continue" in query:
                    self._has_pages = False
                raise
            on_contact()
            items, metadata = read_list(body)
            replica.add_page(items)
            following = metadata.get("continue")
            if not following:
                break
            query = {**query, "continue": str(following)}
            await asyncio.sleep(0)
        resume_version = metadata.get("resourceVersion")
        if not isinstance(resume_version, str) or not resume_version:
            raise StreamError("a list without resourceVersion")
        self._has_pages = True
        return resume_version
