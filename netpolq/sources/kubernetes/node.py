"""The Node of this agent's name: whether the API server has it, and the pod ranges that it names.

Under another name no pod of the cluster is local, and nothing is enforced. The ranges are for the hold, which needs them before the first
sync: a Node is one small object, and may be read where the lists of pods are late. Source: Kubernetes API, core/v1 NodeSpec.
"""

import asyncio
import logging

from collections.abc import Callable, Iterator
from urllib.parse import quote

import aiohttp
import orjson

from netpolq.hold.ranges import PodRange, collapse, parse_range
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.watch import StatusError

_ASK_S = 5.0
"""Between two questions while there is no such Node: a kubelet registers it within seconds of its start."""

_ASK_AGAIN_S = 60.0
"""Between two questions that are refused, since a role is changed by hand; and the longest time between two questions for ranges."""

_REQUEST_S = 10.0

_MAX_CIDRS = 16
"""Entries that are read. The API server admits one of each family."""

_MAX_TEXT = 100
"""Characters of an entry that the log shows."""

log = logging.getLogger("node")


class NodeReader:
    """Asks for one Node by name until it is there, and, before the first sync, until it names pod ranges.

    A controller writes the ranges into a new Node some time after the kubelet has registered it, or never: many network plugins assign
    addresses without it. `is_synced`: whether the source has delivered, so that ranges are of no use any more.
    `exists`: None while that is not known, as where the role does not permit to ask. `pod_ranges`: those that the Node named last.
    """

    def __init__(self, name: str, connection: Connection, is_synced: Callable[[], bool], ask_s: float = _ASK_S) -> None:
        self._path = f"/api/v1/nodes/{quote(name, safe='')}"
        self._name = name
        self._connection = connection
        self._is_synced = is_synced
        self._ask_s = ask_s
        self._ignored: list[str] = []
        self.exists: bool | None = None
        self.pod_ranges: tuple[PodRange, ...] = ()

    async def run(self) -> None:
        """Ask until all is known that is needed; less often where only ranges are missing."""
        range_delay_s = self._ask_s
        while not self._is_complete:
            delay_s = await self._ask()
            if self.exists is True:
                delay_s, range_delay_s = range_delay_s, min(2 * range_delay_s, max(_ASK_AGAIN_S, self._ask_s))
            if not self._is_complete:
                await asyncio.sleep(delay_s)

    @property
    def _is_complete(self) -> bool:
        return self.exists is True and (bool(self.pod_ranges) or self._is_synced())

    async def _ask(self) -> float:
        """Ask once. Returns after how many seconds to ask again."""
        try:
            self._take(await self._connection.get(self._path, {}, timeout_s=_REQUEST_S))
        except StatusError as error:
            if error.code == 404:
                if self.exists is not False:
                    log.warning('the API server has no Node "%s"', self._name)
                self.exists = False
            elif error.code == 403:
                if self.exists is None:
                    log.info("nodes cannot be read (%s); the nodes that pods name are used instead", error)
                elif self.exists is False:
                    self.exists = None
                return max(_ASK_AGAIN_S, self._ask_s)
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass  # the reflectors tell of a server that cannot be reached
        return self._ask_s

    def _take(self, body: bytes) -> None:
        try:
            node = orjson.loads(body)
            is_it = bool(node["metadata"]["name"] == self._name)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return  # no object of the API
        self.exists = is_it
        if not is_it:
            return
        found: list[PodRange] = []
        ignored: list[str] = []
        for field, value in _named(node.get("spec")):
            try:
                found.append(_range(value))
            except ValueError:
                ignored.append(f"{field} {repr(value)[:_MAX_TEXT]}")
        self.pod_ranges = collapse(found)
        if ignored != self._ignored:
            log.warning('Node "%s": no range of pod addresses, ignored: %s', self._name, "; ".join(ignored))
        self._ignored = ignored


def _range(value: object) -> PodRange:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return parse_range(value)


def _named(spec: object) -> Iterator[tuple[str, object]]:
    """What a Node's spec names as its pod ranges, with the field that does: `podCIDRs`, and its first entry again as `podCIDR`."""
    if not isinstance(spec, dict):
        return
    several, one = spec.get("podCIDRs"), spec.get("podCIDR")
    if isinstance(several, list):
        yield from ((f"spec.podCIDRs[{index}]", value) for index, value in enumerate(several[:_MAX_CIDRS]))
        if len(several) > _MAX_CIDRS:
            yield f"spec.podCIDRs[{_MAX_CIDRS}:]", several[_MAX_CIDRS:]
    elif several is not None:
        yield "spec.podCIDRs", several
    if one not in (None, ""):
        yield "spec.podCIDR", one
