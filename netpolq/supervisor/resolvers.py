"""Trusted DNS servers: tells the pool whose answers count, as long as a local pod has domain names in its policies.

See `netpolq.names.resolvers` for which they are.
"""

import asyncio
import logging
import os

from contextlib import suppress
from pathlib import Path

from netpolq.addresses import AddressKey, format_address, parse_address
from netpolq.dataplane.interface_addresses import interface_addresses
from netpolq.ipc.channel import MAX_RESOLVERS, Channel, Resolvers
from netpolq.names.resolvers import CACHE_INTERFACE, DnsService, name_servers, of_cluster
from netpolq.policy.compiler import Compiler
from netpolq.sources.source import Source
from netpolq.store import Store
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout import Rollout

RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second one has the servers behind the stub resolver of systemd-resolved(8), which the first one then names: 127.0.0.53."""

_CHECK_S = 1.0
_INTERFACES_EVERY = 10
"""The addresses of interfaces are read with every tenth check."""

_MAX_FILE_BYTES = 65536

_NO_SERVER = AddressKey(bytes(16))
"""In place of an empty list, which would end the DNS reader: no packet comes from the unspecified address, so nothing is learned."""

log = logging.getLogger("names")


class TrustedResolvers:
    """Finds the DNS servers, and sends them to the pool whenever they change.

    `configured`: those of the settings; empty: they are found. `trusted`: what the pool has; empty without a pod that needs them.
    """

    def __init__(
        self,
        *,
        store: Store,
        compiler: Compiler,
        progress: Progress,
        channel: Channel,
        configured: tuple[str, ...],
        resolv_confs: tuple[Path, ...] = RESOLV_CONFS,
    ) -> None:
        self._store = store
        self._compiler = compiler
        self._progress = progress
        self._channel = channel
        self._configured = tuple(map(parse_address, configured))
        self._files = tuple(map(_ResolvConf, resolv_confs))
        self._services: tuple[DnsService, ...] = ()
        self._of_cache: frozenset[AddressKey] = frozenset()
        self._sent: tuple[AddressKey, ...] | None = None
        self._checks = 0

    @property
    def trusted(self) -> tuple[str, ...]:
        """Addresses of the servers, sorted as text."""
        return tuple(sorted(format_address(address) for address in self._sent or () if address != _NO_SERVER))

    async def run(self, source: Source) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_sent())
            if not self._configured:
                await self._progress.until(self._is_needed)
                tasks.create_task(source.follow_dns_services(self._take))

    def _take(self, services: tuple[DnsService, ...]) -> None:
        self._services = services

    def _is_needed(self, rollout: Rollout) -> bool:
        return not rollout.next_is_complete and bool(self._compiler.asking)

    async def _keep_sent(self) -> None:
        await self._progress.until(lambda rollout: not rollout.next_is_complete)  # before, it is not known which pods ask
        while True:
            is_needed = bool(self._compiler.asking)
            await self._send(await self._present() if is_needed else ())
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await self._progress.until(lambda _rollout, known=is_needed: bool(self._compiler.asking) is not known)  # type: ignore[misc]

    async def _present(self) -> tuple[AddressKey, ...]:
        if self._configured:
            return self._configured
        if self._checks % _INTERFACES_EVERY == 0:
            self._of_cache = (await asyncio.to_thread(interface_addresses)).get(CACHE_INTERFACE, frozenset())
        self._checks += 1
        of_node = [address for file in self._files for address in file.read()]
        return (*of_cluster(self._services, self._store.pods.values()), *sorted(self._of_cache), *of_node)

    async def _send(self, found: tuple[AddressKey, ...]) -> None:
        servers = tuple(sorted(set(found[:MAX_RESOLVERS])))
        if not servers and self._compiler.asking:
            servers = (_NO_SERVER,)
        if servers == self._sent or not self._channel.send(Resolvers(servers)):
            return
        self._sent = servers
        if servers == (_NO_SERVER,):
            log.warning("no DNS server is known, so domain names in policies allow nothing; see --dns-servers")
        else:
            log.info(
                "answers of these DNS servers count for domain names in policies: %s", ", ".join(self.trusted) or "none needed"
            )


class _ResolvConf:
    """A resolv.conf, read when it has changed. One that does not exist or cannot be read has no servers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[int, int, int] | None = None
        self._servers: tuple[AddressKey, ...] = ()

    def read(self) -> tuple[AddressKey, ...]:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                identity = found.st_ino, found.st_mtime_ns, found.st_size
                if identity != self._known:
                    self._known = identity
                    self._servers = tuple(name_servers(file.read(_MAX_FILE_BYTES).decode(errors="replace")))
        except OSError:
            self._known, self._servers = None, ()
        return self._servers
