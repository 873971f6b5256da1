"""Reader of this agent's Node: whether it exists, and its pod ranges.

With a wrong node name no pod is local, and the agent enforces nothing. The hold needs the ranges before the first sync: a Node is one
small object, and can be read while the lists of pods are late. Later the ranges tell which unknown addresses are those of new pods.
Source: Kubernetes API, core/v1 NodeSpec.
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
"""Interval of requests while the Node does not exist: a kubelet registers it within seconds of its start."""

_ASK_AGAIN_S = 60.0
"""Interval of requests that are refused, since people change roles by hand; and the longest interval of requests for ranges before the
first sync."""

_ASK_LATER_S = 600.0
"""The longest interval of requests for ranges after the first sync. Many network plugins never write them."""

_REQUEST_S = 10.0

_MAX_CIDRS = 16
"""Maximum number of entries read. The API server allows one of each family."""

_MAX_TEXT = 100
"""Maximum characters of an entry in the log."""

log = logging.getLogger("node")


class NodeReader:
    """Reads one Node by name until it exists and has pod ranges. The ranges of a Node never change.

    A controller writes the ranges into a new Node some time after the kubelet has registered it, or never: many network plugins assign
    addresses without it. `is_synced`: whether the source has delivered.
    `exists`: None while unknown, for example without permission to read nodes. `pod_ranges`: the latest ones of the Node.
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
        """Read until complete; with a growing interval if only ranges are missing."""
        range_delay_s = self._ask_s
        while not self._is_complete:
            delay_s = await self._ask()
            if self.exists is True:
                longest_s = _ASK_LATER_S if self._is_synced() else _ASK_AGAIN_S
                delay_s, range_delay_s = range_delay_s, min(2 * range_delay_s, max(longest_s, self._ask_s))
            if not self._is_complete:
                await asyncio.sleep(delay_s)

    @property
    def _is_complete(self) -> bool:
        return self.exists is True and bool(self.pod_ranges)

    async def _ask(self) -> float:
        """Read once. Returns the delay until the next request, in seconds."""
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
            pass  # the reflectors report an unreachable server
        return self._ask_s

    def _take(self, body: bytes) -> None:
        try:
            node = orjson.loads(body)
            is_it = bool(node["metadata"]["name"] == self._name)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return  # not an API object
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
        raise ValueError("not a string")
    return parse_range(value)


def _named(spec: object) -> Iterator[tuple[str, object]]:
    """Fields and values of the pod ranges in a Node's spec: `podCIDRs`, and its first entry again as `podCIDR`."""
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
