"""Failures of parts that write objects: which ones are about a single object, and what is done for the connection."""

import asyncio
import contextlib

from collections.abc import Callable

import aiohttp

from netpolq.errors import BootError
from netpolq.sources.kubernetes.connection import Connection, is_about_certificates
from netpolq.sources.kubernetes.watch import StatusError

NO_ANSWER = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request raises that the server has not answered."""

_PERMISSION_OR_LOAD = frozenset({401, 403, 408, 429})
"""Refusals that concern all objects, as do those from 500 on."""


def is_about_one_object(error: StatusError) -> bool:
    """Whether a refusal concerns the written object alone."""
    return error.code < 500 and error.code not in _PERMISSION_OR_LOAD


async def open_connection(connection: Connection, fail: Callable[[str], float]) -> None:
    """Read the configuration. The source ends the agent if it is unusable; what fails here only is tried again.

    `fail`: notes a failure, and returns the seconds until the next attempt.
    """
    while True:
        try:
            return await connection.open()
        except BootError as error:
            await asyncio.sleep(fail(str(error)))


async def renew_credentials(connection: Connection, error: Exception, generation: int) -> None:
    """Read credentials and authorities again if they are the cause of an error. `generation`: see `Connection.renew`."""
    if (isinstance(error, StatusError) and error.code == 401) or is_about_certificates(error):
        with contextlib.suppress(Exception):  # plugins and parsers raise any type; the old credentials stay
            await connection.renew(generation)
