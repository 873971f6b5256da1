"""The report over TLS: which clients get an answer, and what all others cost, with real sockets on the agent's event loop."""

import asyncio
import logging
import os
import socket
import ssl

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import trustme
import uvloop

from netpolq import listener
from netpolq.errors import BootError
from netpolq.ipc.agent_settings import BindAddress
from netpolq.listener import MAX_HANDSHAKES
from netpolq.supervisor import report_server
from netpolq.supervisor.http import Stream
from netpolq.supervisor.report_server import MAX_CONNECTIONS, ReportServer
from tests.support.report_certificates import AGENT_NAME, ReportCertificates

LIMIT_S = 30.0


async def pieces(query: Sequence[tuple[str, str]]) -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d %s\n" % (number, repr(query).encode())


def stream(query: Sequence[tuple[str, str]]) -> AsyncIterator[bytes]:
    if ("wrong", "1") in query:
        raise ValueError("wrong is not allowed")
    return pieces(query)


class Served:
    """A server with the certificates of a test."""

    def __init__(self, certificates: ReportCertificates) -> None:
        self.certificates = certificates
        self.tls = certificates.server_context()
        self.address = BindAddress("127.0.0.1", 0)
        self.stream: Stream = stream

    async def open(self) -> None:
        documents = {"/status": lambda: b"{}"}
        self.server = ReportServer(self.address, self.tls, "netpolq-ui", documents=documents, streams={"/flows": self.stream})
        await self.server.open()

    @property
    def port(self) -> int:
        return self.server.ports[0]

    async def connect(self, tls: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=AGENT_NAME)

    async def ask(self, tls: ssl.SSLContext, request: str = "GET /status") -> bytes:
        """All that a client receives. Raises `OSError` where TLS or the connection fails."""
        reader, writer = await self.connect(tls)
        writer.write(f"{request} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return answer

    async def refuses(self, tls: ssl.SSLContext) -> bool:
        """Whether a client gets not one byte."""
        try:
            return await self.ask(tls) == b""
        except OSError:
            return True


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(ReportCertificates(tmp_path))


def run(served: Served, test: Callable[[], Awaitable[None]]) -> None:
    """Run a test against the server, on the event loop of the supervisor."""

    async def main() -> None:
        await served.open()
        serving = asyncio.create_task(served.server.run())
        try:
            await test()
            assert not serving.done()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await served.server.cleanup()

    uvloop.run(main())


def test_a_client_with_the_right_certificate_reads_documents_and_streams(served: Served) -> None:
    async def test() -> None:
        tls = served.certificates.client()
        assert (await served.ask(tls)).endswith(b"\r\n\r\n{}")
        answer = await served.ask(tls, "GET /flows?since=60")
        assert b"application/x-ndjson" in answer
        assert b"2 (('since', '60'),)" in answer
        assert b" 400 " in (await served.ask(tls, "GET /flows?wrong=1"))
        assert b" 404 " in (await served.ask(tls, "GET /settings"))
        assert b" 405 " in (await served.ask(tls, "PUT /status"))

    run(served, test)


def test_all_other_clients_get_no_byte(served: Served) -> None:
    """Without a certificate, of another authority, with another name, for servers' certificates of the agents, and with an older TLS."""
    certificates = served.certificates

    async def test() -> None:
        old = certificates.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for tls in (
            certificates.anonymous(),
            certificates.client(issuer=trustme.CA()),
            certificates.client(issuer=certificates.agents),
            certificates.client("netpolq-agent"),
            certificates.client("x.netpolq-ui"),
            certificates.client("*.netpolq-ui"),
            old,
        ):
            assert await served.refuses(tls)
        assert not await served.refuses(certificates.client())

    run(served, test)


def test_a_common_name_is_no_dns_name(served: Served) -> None:
    async def test() -> None:
        tls = served.certificates.anonymous()
        served.certificates.clients.issue_cert("other", common_name="netpolq-ui").configure_cert(tls)
        assert await served.refuses(tls)

    run(served, test)


def test_refused_clients_are_logged_once_in_a_minute(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        for _ in range(5):
            assert await served.refuses(served.certificates.client("someone"))

    with caplog.at_level(logging.WARNING):
        run(served, test)
    assert [record.getMessage() for record in caplog.records] == [
        "a client of the report was refused, 127.0.0.1: its certificate has someone, not netpolq-ui"
    ]


def test_silent_many_and_malformed_clients_block_no_other_and_hold_few_descriptors(served: Served) -> None:
    async def test() -> None:
        tls, process = served.certificates.client(), psutil.Process()
        before = process.num_fds()
        loop = asyncio.get_running_loop()
        for data in (b"", b"\x16\x03\x01\x02\x00\x01", os.urandom(3000), b"GET /status HTTP/1.1\r\n\r\n"):
            clients = []
            for _ in range(90):
                client = socket.socket()
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", served.port))
                with suppress(OSError):  # the server has ended it already
                    await loop.sock_sendall(client, data)
                clients.append(client)
            assert not await served.refuses(tls)
            assert process.num_fds() < before + len(clients) + MAX_HANDSHAKES + 20
            for client in clients:
                client.close()
        async with asyncio.timeout(LIMIT_S):
            while process.num_fds() > before + 5:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)

    run(served, test)


def test_a_silent_handshake_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_S", 0.2)

    async def test() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        async with asyncio.timeout(LIMIT_S):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()

    run(served, test)


def test_one_more_connection_closes_the_oldest(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_server, "IDLE_S", 10 * LIMIT_S)

    async def test() -> None:
        tls = served.certificates.client()
        opened = [await served.connect(tls) for _ in range(MAX_CONNECTIONS)]
        reader, _writer = opened[0]
        assert not await served.refuses(tls)
        async with asyncio.timeout(LIMIT_S):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        for _reader, writer in opened:
            writer.close()

    run(served, test)


def test_an_idle_connection_ends_also_after_half_a_request(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_server, "IDLE_S", 0.2)

    async def test() -> None:
        for data in (b"", b"GET /status HTTP/1.1\r\nHost: agent\r\n", b"GET /status HTTP/1.1\r\nHost: agent\r\n\r\n"):
            reader, writer = await served.connect(served.certificates.client())
            writer.write(data)
            async with asyncio.timeout(LIMIT_S):
                with suppress(ConnectionError):
                    await reader.read()
            writer.close()

    run(served, test)


def test_a_stream_that_is_not_read_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_server, "IDLE_S", 0.3)
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    served.stream = lambda _query: endless()

    async def test() -> None:
        _reader, writer = await served.connect(served.certificates.client())
        writer.write(b"GET /flows HTTP/1.1\r\nHost: agent\r\n\r\n")
        async with asyncio.timeout(LIMIT_S):
            await ended.wait()
        writer.close()

    run(served, test)


def test_new_files_are_used_at_the_next_connection_and_end_the_older_ones(served: Served) -> None:
    certificates = served.certificates

    async def test() -> None:
        former = certificates.client()
        reader, writer = await served.connect(former)
        certificates.rotate()
        assert await served.refuses(former)
        assert not await served.refuses(certificates.client())
        writer.write(b"GET /status HTTP/1.1\r\nHost: agent\r\n\r\n")
        async with asyncio.timeout(LIMIT_S):
            assert b"Connection: close" in await reader.read()
        writer.close()

    run(served, test)


def test_broken_new_files_keep_the_former_certificates(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    certificates = served.certificates

    async def test() -> None:
        tls = certificates.client()
        key = certificates.key.read_bytes()
        for broken in (b"", b"\x00\xff" * 500, certificates.certificate.read_bytes(), key[:200]):
            certificates.key.write_bytes(broken)
            assert not await served.refuses(tls)
            assert str(certificates.key) in str(served.tls.problem)
        other = ReportCertificates(certificates.folder / "other")
        certificates.key.write_bytes(other.key.read_bytes())
        assert not await served.refuses(tls)
        assert "not the key of the certificate" in str(served.tls.problem)
        certificates.key.write_bytes(key)
        assert not await served.refuses(tls)
        assert served.tls.problem is None

    with caplog.at_level(logging.WARNING):
        run(served, test)
    assert len(caplog.records) == len({record.getMessage() for record in caplog.records})


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "client-ca.crt"])
def test_a_file_that_is_missing_or_no_pem_is_named_with_its_flag(tmp_path: Path, name: str) -> None:
    flags = {"tls.crt": "--report-tls-certificate", "tls.key": "--report-tls-key", "client-ca.crt": "--report-tls-client-ca"}
    for content in (None, b"", b"-----BEGIN CERTIFICATE-----\nno\n"):
        certificates = ReportCertificates(tmp_path)
        file = tmp_path / name
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(Exception, match=f"{flags[name]} {file}") as caught:
            certificates.server_context()
        assert len(str(caught.value).splitlines()) == 1


def test_an_encrypted_key_is_refused_without_a_question(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    certificates = ReportCertificates(tmp_path)
    key = serialization.load_pem_private_key(certificates.key.read_bytes(), None)
    form = serialization.BestAvailableEncryption(b"secret")
    certificates.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form))
    with pytest.raises(Exception, match=r"--report-tls-key .*the key is encrypted"):
        certificates.server_context()


def test_an_address_in_use_is_named(served: Served) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:  # without SO_REUSEPORT
            server = ReportServer(
                BindAddress("127.0.0.1", other.getsockname()[1]), served.tls, "netpolq-ui", documents={}, streams={}
            )
            with pytest.raises(BootError, match=r"--report-bind-address 127\.0\.0\.1:\d+: Address already in use"):
                await server.open()

    uvloop.run(main())


def test_two_agents_listen_at_one_address(tmp_path: Path, served: Served) -> None:
    """As during a takeover."""
    second = Served(ReportCertificates(tmp_path / "second"))

    async def test() -> None:
        second.address = BindAddress("127.0.0.1", served.port)
        await second.open()
        await second.server.cleanup()
        assert not await served.refuses(served.certificates.client())

    run(served, test)
