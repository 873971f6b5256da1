"""The Services of the cluster's DNS, from the emulated API server."""

import asyncio

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from netpolq.addresses import parse_address
from netpolq.names.resolvers import DnsService
from netpolq.sources.kubernetes import dns_services
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.dns_services import DnsServices, read_service
from netpolq.sources.kubernetes.timing import Timing
from tests.support.apiserver import ApiServer

TIMING = replace(Timing(), max_delay_s=0.01)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_services, "_PAUSE_S", 0.01)
    monkeypatch.setattr(dns_services, "_REFUSED_S", 0.01)


@asynccontextmanager
async def reading(server: ApiServer, tmp_path: Path, timing: Timing = TIMING) -> AsyncIterator[list[tuple[DnsService, ...]]]:
    """What is taken, newest last."""
    taken: list[tuple[DnsService, ...]] = [()]
    connection = Connection(str(server.kubeconfig(tmp_path / "kubeconfig")))
    await connection.open()
    task = asyncio.create_task(DnsServices(connection, taken.append, timing).run())
    try:
        yield taken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


async def test_a_service_is_known_and_followed_through_every_change(tmp_path: Path) -> None:
    async with ApiServer() as server:
        server.services.put("kube-dns", selector={"k8s-app": "kube-dns"}, clusterIPs=["10.96.0.10", "fd00::a"])
        server.services.put("other", selector={"x": "y"}, clusterIPs=["10.96.0.99"])
        async with reading(server, tmp_path) as taken:
            addresses = parse_address("10.96.0.10"), parse_address("fd00::a")
            await server.until(lambda: taken[-1] == (DnsService({"k8s-app": "kube-dns"}, addresses),))
            await server.until(lambda: "coredns" in server.services.lists)
            lists = len(server.services.lists)
            server.services.put("other", selector={}, clusterIPs=[])
            server.services.put("kube-dns", selector={"k8s-app": "other"}, clusterIPs=["10.96.0.11"])
            await server.until(lambda: taken[-1] == (DnsService({"k8s-app": "other"}, (parse_address("10.96.0.11"),)),))
            assert server.services.lists[lists:] == ["kube-dns"], "only an event causes a list"
            server.services.put("coredns", selector={"app": "coredns"}, clusterIP="None")
            await server.until(lambda: len(taken[-1]) == 2)
            assert taken[-1][1] == DnsService({"app": "coredns"}, ())
            server.services.delete("kube-dns")
            await server.until(lambda: taken[-1] == (DnsService({"app": "coredns"}, ()),))


async def test_what_is_missed_between_two_watches_is_seen(tmp_path: Path) -> None:
    async with ApiServer() as server:
        server.services.put("kube-dns", selector={}, clusterIPs=["10.96.0.10"])
        async with reading(server, tmp_path) as taken:
            await server.until(lambda: len(taken[-1]) == 1)
            server.cut_connections()
            server.services.delete("kube-dns")
            await server.until(lambda: taken[-1] == ())


async def test_a_refusal_is_logged_once_and_requests_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with ApiServer() as server:
        server.services.is_forbidden = True
        async with reading(server, tmp_path) as taken:
            await server.until(lambda: len([one for one in server.requests if "services" in one.path]) > 5)
            assert caplog.text.count("cannot be read") == 1
            server.services.put("kube-dns", selector={}, clusterIPs=["10.96.0.10"])
            server.services.is_forbidden = False
            await server.until(lambda: len(taken[-1]) == 1)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"spec": None},
        {"spec": {}},
        {"spec": {"selector": [], "clusterIPs": {}}},
        {"spec": {"selector": {"a": 1}, "clusterIPs": [None, 7, "None", "", "10.0.0.256"]}},
    ],
)
def test_what_cannot_be_read_counts_as_absent(body: object) -> None:
    assert read_service(body) == DnsService({}, ())


def test_addresses_are_read_once_and_a_bounded_number() -> None:
    texts = ["10.96.0.10", "10.96.0.10", *(f"10.96.1.{number}" for number in range(50))]
    assert len(read_service({"spec": {"clusterIPs": texts}}).cluster_ips) == 15
