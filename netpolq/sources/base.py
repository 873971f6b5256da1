"""What the supervisor needs from a source of objects, whichever it is."""

from collections.abc import Callable
from typing import Protocol

from netpolq.model import Update

Deliver = Callable[[Update], None]
"""Takes over one update, at once and without waiting. Called in the source's own event loop."""


class Source(Protocol):
    """A source of truth. `location`: where the objects come from, for status and logs."""

    @property
    def location(self) -> str: ...

    async def run(self, deliver: Deliver) -> None:
        """Deliver until cancelled. The first update is the complete first sync; each later one is atomic.

        Raises `BootError` when the source cannot be used and trying again would not help.
        """
        ...
