"""Agents over TLS: found through an API server, read with a client certificate, and only where the name of agents is proven."""

import asyncio

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
import trustme

from netpolq.flow_view.exec_command import Cluster
from netpolq.ipc.agent_settings import BindAddress
from netpolq.supervisor.report_server import ReportServer
from netpolq.tls import TlsContext, TlsFile, client_context
from netpolq.ui.agents.mutual_tls import MutualTlsAgents
from netpolq.ui.state.known_agents import KnownAgents
from tests.support.apiserver import ApiServer
from tests.support.report_certificates import ReportCertificates

LIMIT_S = 30.0


class Asked(NamedTuple):
    """Questions that an agent was asked."""

    queries: list[tuple[tuple[str, str], ...]]


def flow_stream(node: str, asked: Asked) -> Callable[[Sequence[tuple[str, str]]], AsyncIterator[bytes]]:
    """An agent without flows."""

    async def head() -> AsyncIterator[bytes]:
        fields = {"started_s": 1.0, "next": 0, "missed": 0, "records": 0, "max_records": 1000}
        yield orjson.dumps({"node": node, **fields, "unrecorded": 0, "lost": 0, "dropped_early": 0}) + b"\n"

    def stream(query: Sequence[tuple[str, str]]) -> AsyncIterator[bytes]:
        asked.queries.append(tuple(query))
        return head()

    return stream


def client_tls(certificates: ReportCertificates, folder: Path) -> TlsContext:
    certificate, key, authority = certificates.client_files(folder)
    return client_context(
        TlsFile(flag="--agent-tls-certificate", path=certificate),
        TlsFile(flag="--agent-tls-key", path=key),
        TlsFile(flag="--agent-tls-ca", path=authority),
    )


@asynccontextmanager
async def agent(node: str, address: BindAddress, tls: TlsContext) -> AsyncIterator[tuple[int, Asked]]:
    """An agent's report at an address. Yields its port."""
    asked = Asked([])
    server = ReportServer(address, tls, "netpolq-ui", documents={}, streams={"/flows": flow_stream(node, asked)})
    await server.open()
    serving = asyncio.create_task(server.run())
    try:
        yield server.ports[0], asked
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await server.cleanup()


@asynccontextmanager
async def reading(api: ApiServer, folder: Path, tls: TlsContext, port: int) -> AsyncIterator[KnownAgents]:
    cluster = Cluster(
        kubeconfig=str(api.kubeconfig(folder / "kubeconfig")),
        context="",
        namespace="kube-system",
        selector="app.kubernetes.io/name=netpolq",
        nodes=frozenset(),
        run_dir=None,
        timeout_s=5.0,
    )
    known = KnownAgents(0.0)
    source = MutualTlsAgents(cluster, tls, port)
    await source.open()
    task = asyncio.create_task(source.run(known))
    try:
        yield known
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.01)


async def test_the_agents_of_all_nodes_are_read_at_their_addresses(tmp_path: Path) -> None:
    certificates = ReportCertificates(tmp_path / "tls")
    async with AsyncExitStack() as stack:
        port, _asked = await stack.enter_async_context(
            agent("node-1", BindAddress("127.0.0.2", 0), certificates.server_context())
        )
        await stack.enter_async_context(agent("node-2", BindAddress("127.0.0.3", port), certificates.server_context()))
        api = await stack.enter_async_context(ApiServer())
        api.containers.put("netpolq-a", "node-1", address="127.0.0.2")
        api.containers.put("netpolq-b", "node-2", address="127.0.0.3")
        api.containers.put("netpolq-c", "node-3", address="127.0.0.4")
        api.containers.put("netpolq-d", "node-4")
        known = await stack.enter_async_context(reading(api, tmp_path, client_tls(certificates, tmp_path), port))
        await until(lambda: {node for node, state in known.nodes.items() if state.is_reachable} == {"node-1", "node-2"})
        await until(lambda: "cannot be reached" in known.nodes["node-3"].problem)
        assert known.nodes["node-4"].problem == "its pod has no address yet"
        assert known.nodes["node-1"].pod == "netpolq-a"
        assert api.containers.commands == []


@pytest.mark.parametrize("is_of_agents", [True, False], ids=["another name", "another authority"])
async def test_a_server_that_is_no_agent_gets_no_question(tmp_path: Path, is_of_agents: bool) -> None:
    certificates = ReportCertificates(tmp_path / "tls")
    tls = client_tls(certificates, tmp_path)
    issuer, name = (certificates.agents, "web") if is_of_agents else (trustme.CA(), "netpolq-agent")
    issued = issuer.issue_cert(name)
    certificates.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    certificates.key.write_bytes(issued.private_key_pem.bytes())
    async with AsyncExitStack() as stack:
        port, asked = await stack.enter_async_context(agent("node-1", BindAddress("127.0.0.2", 0), certificates.server_context()))
        api = await stack.enter_async_context(ApiServer())
        api.containers.put("netpolq-a", "node-1", address="127.0.0.2")
        known = await stack.enter_async_context(reading(api, tmp_path, tls, port))
        await until(lambda: "node-1" in known.nodes and "certificate" in known.nodes["node-1"].problem)
        assert not known.nodes["node-1"].is_reachable
        assert not asked.queries


async def test_renewed_certificates_of_both_sides_are_used_without_asking_for_the_history_again(tmp_path: Path) -> None:
    certificates = ReportCertificates(tmp_path / "tls")
    tls = client_tls(certificates, tmp_path)
    async with AsyncExitStack() as stack:
        server = certificates.server_context()
        port, asked = await stack.enter_async_context(agent("node-1", BindAddress("127.0.0.2", 0), server))
        api = await stack.enter_async_context(ApiServer())
        api.containers.put("netpolq-a", "node-1", address="127.0.0.2")
        known = await stack.enter_async_context(reading(api, tmp_path, tls, port))
        await until(lambda: "node-1" in known.nodes and known.nodes["node-1"].is_reachable)
        certificates.rotate()
        server.current()
        await until(lambda: bool(known.nodes["node-1"].problem))
        before = len(asked.queries)
        certificates.client_files(tmp_path)
        await until(lambda: not known.nodes["node-1"].problem)
        assert len(asked.queries) > before
        assert [dict(query) for query in asked.queries].count({"since": "3600"}) == 1
