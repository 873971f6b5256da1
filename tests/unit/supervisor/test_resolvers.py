"""Which DNS servers the pool is told, with a real store, compiler and channel."""

import asyncio

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from netpolq.addresses import format_address, parse_address
from netpolq.ipc.channel import Channel, Resolvers
from netpolq.model import Namespace, Object, ObjectKey, Pod, Update
from netpolq.names.resolvers import DnsService
from netpolq.policy.compiler import Compiler
from netpolq.sources.folder.source import ManifestFolder
from netpolq.store import Store
from netpolq.supervisor.resolvers import TrustedResolvers
from netpolq.supervisor.rollout_events import CompileStarted, Noticed, Published
from tests.support.cluster_policies import cluster_policy, decoded, rule
from tests.support.progress import progress_of

POD = Pod(namespace="shop", name="web", labels={}, ips=(parse_address("10.0.0.1"),))
DNS = Pod(namespace="kube-system", name="dns", labels={"k8s-app": "kube-dns"}, ips=(parse_address("10.0.0.53"),))
POLICY = decoded(cluster_policy("names", egress=[rule("Accept", {"domainNames": ["example.com"]})]))


class Services(ManifestFolder):
    """A source that reports one Service."""

    async def follow_dns_services(self, take: Callable[[tuple[DnsService, ...]], None]) -> None:
        take((DnsService({}, (parse_address("10.96.0.10"),)),))


class Supervisor:
    """The part, the store, and publications in place of the enforcer."""

    def __init__(self, resolv_conf: Path, source: ManifestFolder, configured: tuple[str, ...] = ()) -> None:
        self._channel, end = Channel.pair()
        self._pool = Channel(end)
        self._progress = progress_of()
        self._store = Store()
        self._compiler = Compiler(self._store, is_local=lambda pod: pod is not DNS)
        self.resolvers = TrustedResolvers(
            store=self._store,
            compiler=self._compiler,
            progress=self._progress,
            channel=self._channel,
            configured=configured,
            resolv_confs=(resolv_conf, resolv_conf.with_name("missing")),
        )
        self._running = asyncio.create_task(self.resolvers.run(source))
        self.sent: list[set[str]] = []

    def put(self, *items: Object, deleted: Sequence[ObjectKey] = ()) -> None:
        self._store.apply(Update(upserted=items, deleted=tuple(deleted), ignored={}, observed_ns=0))
        self._progress.send(Noticed(0))
        self._progress.send(CompileStarted())
        for _delta in self._compiler.steps():
            pass
        self._progress.send(Published(self._progress.rollout.version + 1, ()))

    async def until_sent(self, *expected: str) -> None:
        """Wait until the pool has these servers."""
        async with asyncio.timeout(10):
            while not self.sent or self.sent[-1] != set(expected):
                await asyncio.sleep(0.01)
                self._receive()

    def _receive(self) -> None:
        while (received := self._pool.receive()) is not None:
            assert isinstance(received[0], Resolvers)
            self.sent.append({format_address(address) for address in received[0].addresses})

    async def close(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._channel.close()
        self._pool.close()


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.53\n")
    return path


@pytest.fixture
async def supervisor(tmp_path: Path, resolv_conf: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(resolv_conf, ManifestFolder(tmp_path))
    yield supervisor
    await supervisor.close()


async def test_the_servers_are_sent_as_long_as_a_pod_has_names_in_its_policies(supervisor: Supervisor) -> None:
    await asyncio.sleep(0.02)
    supervisor._receive()
    assert supervisor.sent == [], "before the first version it is not known whether one has"
    supervisor.put(Namespace(name="shop", labels={}), POD, DNS)
    await supervisor.until_sent()
    supervisor.put(POLICY)
    await supervisor.until_sent("10.0.0.53", "192.0.2.53")
    assert supervisor.resolvers.trusted == ("10.0.0.53", "192.0.2.53")
    supervisor.put(deleted=[POLICY.key])
    await supervisor.until_sent()
    assert len(supervisor.sent) == 3


async def test_pods_and_the_file_of_the_node_are_followed(supervisor: Supervisor, resolv_conf: Path) -> None:
    supervisor.put(Namespace(name="shop", labels={}), POD, DNS, POLICY)
    await supervisor.until_sent("10.0.0.53", "192.0.2.53")
    resolv_conf.write_text("nameserver 192.0.2.54\n")
    await supervisor.until_sent("10.0.0.53", "192.0.2.54")
    supervisor.put(deleted=[DNS.key])
    await supervisor.until_sent("192.0.2.54")
    resolv_conf.unlink()
    await supervisor.until_sent("::")
    assert supervisor.resolvers.trusted == (), "no packet comes from there, and the DNS reader goes on"
    resolv_conf.write_text("nameserver 192.0.2.55\n")
    await supervisor.until_sent("192.0.2.55")


async def test_services_of_the_source_count(tmp_path: Path, resolv_conf: Path) -> None:
    supervisor = Supervisor(resolv_conf, Services(tmp_path))
    supervisor.put(Namespace(name="shop", labels={}), POD, DNS, POLICY)
    await supervisor.until_sent("10.96.0.10", "192.0.2.53")
    await supervisor.close()


async def test_configured_servers_replace_those_that_are_found(tmp_path: Path, resolv_conf: Path) -> None:
    supervisor = Supervisor(resolv_conf, Services(tmp_path), ("198.51.100.1", "2001:db8::1"))
    supervisor.put(Namespace(name="shop", labels={}), POD, DNS, POLICY)
    await supervisor.until_sent("198.51.100.1", "2001:db8::1")
    await supervisor.close()


async def test_a_bounded_number_of_servers_is_sent(supervisor: Supervisor) -> None:
    many = tuple(parse_address(f"10.9.{number // 250}.{number % 250}") for number in range(400))
    supervisor.put(
        Namespace(name="shop", labels={}), POD, POLICY, Pod(namespace="kube-system", name="d", labels=DNS.labels, ips=many)
    )
    async with asyncio.timeout(10):
        while not supervisor.sent or len(supervisor.sent[-1]) != 256:
            await asyncio.sleep(0.01)
            supervisor._receive()
