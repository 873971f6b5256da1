"""Interface of a source of objects, as the supervisor uses it."""

from collections.abc import Callable
from typing import Protocol

from netpolq.hold.ranges import PodRange
from netpolq.model import Update
from netpolq.names.resolvers import DnsService

Deliver = Callable[[Update], None]
"""Accepts one update without blocking. The source calls it in its own event loop."""


class Source(Protocol):
    """A source of namespaces, pods and policies.

    `kind`: one word. `location`: where the objects come from, for status and logs. `contact_ns`: the last time at which the delivered
    state was known to be current (monotonic), or None. `problems`: readable reasons why the state may be outdated.
    `node_exists`: whether the source has a Node of this agent's name; None if unknown.
    `pod_ranges`: the known pod ranges of that Node; for the hold, before the first sync.
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

    async def follow_dns_services(self, take: Callable[[tuple[DnsService, ...]], None]) -> None:
        """Pass on the Services of the cluster's DNS, all that exist after each change, until cancelled. A source without Services returns
        at once. Call it after the first sync.
        """
        ...

    async def run(self, deliver: Deliver) -> None:
        """Deliver until cancelled. The first update is the complete first sync; each later one is atomic.

        Raises `BootError` if the source is unusable and a retry would not help.
        """
        ...
