"""Reader of the Services of the cluster's DNS, each by its name. It runs only on nodes with a pod that has domain names in its policies.

A Service is listed, and then watched for any event, after which it is listed again. So an event is never decoded, and what was missed
between two watches is seen. Source: Kubernetes API, core/v1 ServiceSpec; the API concepts page on field selectors.
"""

import asyncio
import logging
import random

from collections.abc import Callable

import aiohttp

from netpolq.addresses import AddressKey, parse_address
from netpolq.names.resolvers import NAMESPACE, SERVICES, DnsService
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import StatusError, StreamError, read_list

_PATH = f"/api/v1/namespaces/{NAMESPACE}/services"
_PAUSE_S = 1.0
"""Minimum interval between two lists."""

_REFUSED_S = 60.0
"""Interval of requests that are refused, since people change roles by hand."""

_MAX_ADDRESSES = 16
"""Maximum number of cluster IPs that are read. The API server allows one of each family."""

log = logging.getLogger("names")


class DnsServices:
    """Reads the Services. `take`: called with all that exist, after each change."""

    def __init__(self, connection: Connection, take: Callable[[tuple[DnsService, ...]], None], timing: Timing) -> None:
        self._connection = connection
        self._take = take
        self._timing = timing
        self._found: dict[str, DnsService] = {}
        self._is_refusal_logged = False

    async def run(self) -> None:
        """Read until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name in SERVICES:
                tasks.create_task(self._follow(name))

    async def _follow(self, name: str) -> None:
        while True:
            delay_s = _PAUSE_S
            try:
                await self._watch(name, await self._list(name))
            except StatusError as error:
                delay_s = self._timing.max_delay_s
                if error.code == 403:
                    delay_s = _REFUSED_S
                    self._log_refusal(error)
            except (aiohttp.ClientError, OSError, TimeoutError, StreamError):
                delay_s = self._timing.max_delay_s  # the reflectors report an unreachable server
            await asyncio.sleep(delay_s * random.uniform(1.0, 1.5))  # noqa: S311  # agents must not ask together

    async def _list(self, name: str) -> str:
        """Read a Service. Returns the version of the list."""
        body = await self._connection.get(_PATH, _selection(name), timeout_s=self._timing.request_s)
        items, metadata = read_list(body)
        before = dict(self._found)
        self._found.pop(name, None)
        for item in items[:1]:
            self._found[name] = read_service(item)
        if self._found != before:
            self._take(tuple(self._found.values()))
        return str(metadata.get("resourceVersion", ""))

    async def _watch(self, name: str, version: str) -> None:
        """Wait for an event, or for the end of the watch."""
        timeout_s = random.uniform(*self._timing.watch_s)  # noqa: S311
        query = {**_selection(name), "watch": "true", "resourceVersion": version, "timeoutSeconds": str(int(timeout_s))}
        async with self._connection.stream(
            _PATH, query, total_s=timeout_s + self._timing.request_s, idle_s=timeout_s * 2
        ) as content:
            await content.readany()

    def _log_refusal(self, error: StatusError) -> None:
        if not self._is_refusal_logged:
            log.warning(
                "Services of the cluster's DNS cannot be read (%s): its pods are found by their label k8s-app; see the Role netpolq-dns",
                error,
            )
        self._is_refusal_logged = True


def _selection(name: str) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={name}"}


def read_service(body: object) -> DnsService:
    """Selector and cluster IPs of a Service. What cannot be read counts as absent."""
    spec = body.get("spec") if isinstance(body, dict) else None
    if not isinstance(spec, dict):
        return DnsService({}, ())
    selector = spec.get("selector")
    if not (isinstance(selector, dict) and all(isinstance(value, str) for value in selector.values())):
        selector = {}
    several = spec.get("clusterIPs")
    texts = several[:_MAX_ADDRESSES] if isinstance(several, list) else [spec.get("clusterIP")]
    return DnsService(selector, tuple(dict.fromkeys(address for text in texts for address in _addresses(text))))


def _addresses(text: object) -> tuple[AddressKey, ...]:
    """The address in a field; none for "None", as a headless Service has it, and for anything else."""
    try:
        return (parse_address(text),) if isinstance(text, str) else ()
    except ValueError:
        return ()
