"""What the supervisor needs from a source of objects, whichever it is."""

from collections.abc import Callable
from typing import Protocol

from netpolq.hold.ranges import PodRange
from netpolq.model import Update

Deliver = Callable[[Update], None]
"""Takes over one update, at once and without waiting. Called in the source's own event loop."""


class Source(Protocol):
    """A source of truth.

    `kind`: one word. `location`: where the objects come from, for status and logs. `contact_ns`: when what was delivered was last known
    to be the present state (monotonic), or None. `problems`: what keeps it from knowing, for people.
    `node_exists`: whether the source has a Node of this agent's name; None if it cannot tell.
    `pod_ranges`: the ranges of that Node's pods, as far as the source knows them; for the hold, before the first sync.
    """

    @property
    def kind(self) -> str: ...

    @property
    def location(self) -> str: ...

    @property
    def contact_ns(self) -> int | None: ...

    @property
    def problems(self) -> list[str]: ...

    @property
    def node_exists(self) -> bool | None: ...

    @property
    def pod_ranges(self) -> tuple[PodRange, ...]: ...

    async def run(self, deliver: Deliver) -> None:
        """Deliver until cancelled. The first update is the complete first sync; each later one is atomic.

        Raises `BootError` when the source cannot be used and trying again would not help.
        """
        ...
