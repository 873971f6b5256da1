"""Waits for conditions that send no event: files, other processes, state that operators read."""

import asyncio

from collections.abc import Callable

_LIMIT_S = 30.0
_STEP_S = 0.002


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true. Raises `TimeoutError`."""
    async with asyncio.timeout(_LIMIT_S):
        while not condition():  # noqa: ASYNC110 - about anything, so that no event could signal it
            await asyncio.sleep(_STEP_S)
