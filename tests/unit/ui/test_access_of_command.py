"""`netpolq ui` as a program, with the flags of access: TLS, a token, users of an API server, agents over TLS."""

import asyncio
import os
import secrets
import signal
import ssl
import sys

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from netpolq.errors import ExitCode
from netpolq.ipc.agent_settings import BindAddress
from netpolq.ui.access.kubernetes import URL
from tests.support.apiserver import ApiServer, write_service_account
from tests.support.apiserver.reviews import User
from tests.support.commands import in_process
from tests.support.report_certificates import ReportCertificates
from tests.unit.ui.test_mutual_tls import agent

LIMIT_S = 60.0


@asynccontextmanager
async def command(*flags: str, **environment: str) -> AsyncIterator[str]:
    """The command. Yields its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "netpolq", "ui", *flags),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            url = (await process.stdout.readline()).decode().strip()
        assert url, await process.wait()
        yield url
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == ExitCode.OK


async def session(
    client: aiohttp.ClientSession, url: str, token: str | None, tls: ssl.SSLContext
) -> tuple[int, dict[str, object]]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    port = url.rstrip("/").rpartition(":")[2]
    async with client.get(f"https://localhost:{port}/api/session", headers=headers, ssl=tls) as answer:
        return answer.status, await answer.json()


async def test_the_page_over_tls_with_a_token(tmp_path: Path) -> None:
    certificates, token = ReportCertificates(tmp_path / "tls"), secrets.token_hex(32)
    certificates.write("localhost")
    file = tmp_path / "token"
    file.write_text(token)
    flags = (f"--tls-certificate={certificates.certificate}", f"--tls-key={certificates.key}", f"--token-file={file}")
    async with aiohttp.ClientSession() as client, command("--demo", "--listen=:0", *flags) as url:
        assert url.startswith("https://localhost:")
        code, body = await session(client, url, None, certificates.anonymous())
        assert code == 401
        assert body.keys() == {"error"}
        code, body = await session(client, url, token, certificates.anonymous())
        assert (code, body["authentication"], body["user"]) == (200, "token", None)
        certificates.rotate()
        certificates.write("localhost")
        async with aiohttp.ClientSession() as second:
            assert (await session(second, url, token, certificates.anonymous()))[0] == 200


async def test_the_page_reads_agents_over_tls_and_knows_the_users_of_the_cluster(tmp_path: Path) -> None:
    """No command runs in a container."""
    certificates = ReportCertificates(tmp_path / "agents")
    page = ReportCertificates(tmp_path / "page")
    page.write("localhost")
    certificate, key, authority = certificates.client_files(tmp_path / "client")
    async with AsyncExitStack() as stack:
        port, _asked = await stack.enter_async_context(
            agent("node-1", BindAddress("127.0.0.2", 0), certificates.server_context())
        )
        api = await stack.enter_async_context(ApiServer(tls=True, token="of-the-pod"))
        api.containers.put("netpolq-a", "node-1", address="127.0.0.2")
        api.reviews.users = {"jane's": User(name="jane", urls=(URL,)), "joe's": User(name="joe")}
        assert api.authority is not None
        account = write_service_account(tmp_path / "account", api.authority.certificate, "of-the-pod")
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig", token_file=account / "token")
        url = await stack.enter_async_context(
            command(
                "--listen=:0",
                "--authentication=kubernetes",
                *(f"--tls-certificate={page.certificate}", f"--tls-key={page.key}"),
                *(f"--agent-tls-certificate={certificate}", f"--agent-tls-key={key}", f"--agent-tls-ca={authority}"),
                f"--report-port={port}",
                KUBECONFIG=str(kubeconfig),
            )
        )
        client = await stack.enter_async_context(aiohttp.ClientSession())
        assert (await session(client, url, None, page.anonymous()))[0] == 401
        assert (await session(client, url, "joe's", page.anonymous()))[0] == 403
        code, body = await session(client, url, "jane's", page.anonymous())
        assert (code, body["authentication"], body["user"], body["source"]) == (200, "kubernetes", "jane", "cluster")
        async with asyncio.timeout(LIMIT_S):
            while "node-1" not in await _reachable(client, url, page.anonymous()):  # noqa: ASYNC110 - a document is asked for
                await asyncio.sleep(0.05)
        assert api.containers.commands == []


async def _reachable(client: aiohttp.ClientSession, url: str, tls: ssl.SSLContext) -> set[str]:
    port = url.rstrip("/").rpartition(":")[2]
    headers = {"Authorization": "Bearer jane's"}
    async with client.get(f"https://localhost:{port}/api/nodes", headers=headers, ssl=tls) as answer:
        return {node["node"] for node in (await answer.json())["nodes"] if node["reachable"]}


def test_in_a_pod_the_service_account_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key, authority = ReportCertificates(tmp_path).client_files(tmp_path / "client")
    files = (f"--agent-tls-certificate={certificate}", f"--agent-tls-key={key}", f"--agent-tls-ca={authority}")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    for flags in ((), ("--authentication=kubernetes",)):
        _code, _printed, errors = in_process("ui", "--listen=127.0.0.1:0", *files, *flags)
        assert "the service account of this pod cannot be used" in errors


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--listen=:8443",), ExitCode.USAGE, "needs --token-file FILE or --authentication kubernetes"),
        (("--tls-key=x",), ExitCode.USAGE, "--tls-key needs --tls-certificate, too"),
        (("--authentication=ldap",), ExitCode.USAGE, "allowed: none, token or kubernetes"),
        (("--agent-tls-key=x",), ExitCode.USAGE, "--agent-tls-key: needs --agent-tls-certificate and --agent-tls-ca, too"),
        (
            ("--report-port=9443",),
            ExitCode.USAGE,
            "flag --report-port: is for agents over TLS; give --agent-tls-certificate, too",
        ),
        (("--demo", "--token-file=/none"), ExitCode.BOOT, "--token-file /none: No such file or directory"),
        (("--demo", "--tls-certificate=/none", "--tls-key=/none"), ExitCode.BOOT, "--tls-certificate /none: No such file"),
        (
            ("--agent-tls-certificate=/none", "--agent-tls-key=/none", "--agent-tls-ca=/none"),
            ExitCode.BOOT,
            "--agent-tls-certificate /none: No such file",
        ),
        (
            ("--agent-tls-certificate=/x", "--agent-tls-key=/x", "--agent-tls-ca=/x", "--demo"),
            ExitCode.USAGE,
            "--demo: cannot be combined with --agent-tls-certificate",
        ),
    ],
)
def test_flags_that_cannot_be_used_are_named(flags: tuple[str, ...], code: ExitCode, text: str) -> None:
    found, _printed, errors = in_process("ui", *flags)
    assert text in errors
    assert found == code
    assert len(errors.splitlines()) == 1
