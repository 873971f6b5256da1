"""The report of a running agent over TLS: which clients read its flows, and what becomes of it when files and agents change."""

import http.client
import json
import re
import secrets
import socket
import ssl
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import CHECKOUT, Box
from netpolq.flows import record
from netpolq.supervisor import flows_report, objects_report, status_client
from netpolq.supervisor.status import ReportStatus, decode
from tests.process.conftest import NODE, admit, assert_admitted
from tests.support.apiserver import ApiServer, ThreadedApiServer
from tests.support.report_certificates import AGENT_NAME, ReportCertificates
from tests.support.upgrades import Upgrades

PORT = 9443
FLAGS = (f"--report-bind-address=:{PORT}", "--workers=1", "--fail-open=false")


@pytest.fixture
def certificates(box: Box) -> ReportCertificates:
    return ReportCertificates(box.directory / "tls")


@pytest.fixture
def agent(box: Box, folder: Path, certificates: ReportCertificates) -> Iterator[Agent]:
    with Agent(box, folder, *FLAGS, *certificates.flags) as agent:
        yield agent


def connect(box: Box, context: ssl.SSLContext, address: str = "127.0.0.1") -> ssl.SSLSocket:
    """Raises `OSError` where TLS or the connection fails."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = box.inside(NODE.name, lambda: socket.socket(family, socket.SOCK_STREAM))
    connection.settimeout(10.0)
    try:
        connection.connect((address, PORT))
        return context.wrap_socket(connection, server_hostname=AGENT_NAME)
    except OSError:
        connection.close()
        raise


def get(box: Box, context: ssl.SSLContext, path: str, address: str = "127.0.0.1") -> bytes:
    """The body of an answer. Raises `OSError`, or `HTTPException` where there is none."""
    client = http.client.HTTPConnection(AGENT_NAME)
    client.sock = connect(box, context, address)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        client.close()


def refuses(box: Box, context: ssl.SSLContext) -> bool:
    """Whether a client gets not one byte of HTTP: with TLS 1.3 a client may notice only when it reads."""
    try:
        with connect(box, context) as connection:
            connection.sendall(b"GET /status HTTP/1.1\r\nHost: agent\r\n\r\n")
            return connection.recv(1) == b""
    except OSError:
        return True


def test_a_client_with_the_right_certificate_reads_flows_status_and_objects(
    box: Box, agent: Agent, certificates: ReportCertificates
) -> None:
    assert_admitted(box, "friend")
    client = certificates.client()

    def flows() -> set[str]:
        _head, *lines = get(box, client, "/flows?since=300").splitlines()
        return {str(record.decode(line).flow.verdict) for line in lines}

    agent.wait_until("both clients are recorded", lambda: {"accept", "deny"} <= flows())
    head, _records = flows_report.decode(get(box, client, "/flows?since=300", "::1"))
    assert head.node == NODE.name
    status = decode(get(box, client, "/status"))
    assert status.ready
    assert status.report is not None
    assert (status.report.address, status.report.problem) == (f":{PORT}", None)
    assert "app" in str(objects_report.decode(get(box, client, "/objects")).objects)


def test_other_clients_read_nothing_and_the_agent_goes_on(box: Box, agent: Agent, certificates: ReportCertificates) -> None:
    for context in (
        certificates.anonymous(),
        certificates.client(issuer=trustme.CA()),
        certificates.client("netpolq-agent"),
    ):
        assert refuses(box, context)
    assert not refuses(box, certificates.client())
    assert agent.is_ready()
    log = agent.log.read_text()
    assert "a client of the report was refused, 127.0.0.1: " in log
    assert "Traceback" not in log


def test_renewed_certificates_are_used_and_broken_ones_are_not(
    box: Box, agent: Agent, folder: Path, certificates: ReportCertificates
) -> None:
    former = certificates.client()
    certificates.rotate()
    assert refuses(box, former)
    client = certificates.client()
    key = certificates.key.read_bytes()
    certificates.key.write_bytes(b"no key")
    status = json.loads(get(box, client, "/status"))
    assert str(certificates.key) in status["report"]["problem"]
    certificates.key.write_bytes(key)
    assert json.loads(get(box, client, "/status"))["report"]["problem"] is None
    before = agent.status()
    admit(folder, "stranger")
    agent.wait_until_enforced(before)


def test_a_successor_listens_before_the_agent_leaves(box: Box, folder: Path, certificates: ReportCertificates) -> None:
    upgrades = Upgrades(box, folder, *FLAGS, *certificates.flags)
    try:
        upgrades.upgrade()
        assert decode(get(box, certificates.client(), "/status")).report is not None
        assert upgrades.agent.is_ready()
    finally:
        upgrades.agent.stop()
        upgrades.agent.cleanup()


def test_the_page_reads_an_agent_with_certificates_that_were_made_as_the_documentation_says(
    box: Box, folder: Path, tmp_path: Path
) -> None:
    """The first block of commands in docs/ui.md, a running agent, and `netpolq ui`, which finds it through an API server."""
    (script, *_others) = re.findall(r"```sh\n(.*?)```", (CHECKOUT / "docs/ui.md").read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    tls = (f"--report-tls-certificate={tmp_path}/agent.crt", f"--report-tls-key={tmp_path}/agent.key")
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    with (
        ThreadedApiServer(ApiServer(listener=listener)) as api,
        Agent(box, folder, *FLAGS, *tls, f"--report-tls-client-ca={tmp_path}/ca.crt") as agent,
    ):
        api.do(lambda server: server.containers.put("netpolq-a", NODE.name, address=box.address(NODE.name, 4)))
        token = secrets.token_hex(32)
        (tmp_path / "token").write_text(token)
        flags = (
            f"--kubeconfig={api.kubeconfig(tmp_path / 'kubeconfig')}",
            *(f"--agent-tls-certificate={tmp_path}/client.crt", f"--agent-tls-key={tmp_path}/client.key"),
            *(f"--agent-tls-ca={tmp_path}/ca.crt", "--listen=:8443", f"--token-file={tmp_path}/token"),
            *(f"--tls-certificate={tmp_path}/page.crt", f"--tls-key={tmp_path}/page.key"),
        )
        page = box.popen(NODE.name, [sys.executable, "-P", "-m", "netpolq", "ui", *flags], log=tmp_path / "ui.log", pipe=True)
        try:
            assert page.stdout is not None
            assert page.stdout.readline().startswith("https://"), (tmp_path / "ui.log").read_text()
            assert_admitted(box, "friend")
            context = ssl.create_default_context(cafile=tmp_path / "ca.crt")

            def asked(path: str) -> dict[str, Any]:
                client = http.client.HTTPConnection("localhost")
                connection = box.inside(NODE.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                connection.connect(("127.0.0.1", 8443))
                client.sock = context.wrap_socket(connection, server_hostname="localhost")
                client.request("GET", path, headers={"Authorization": f"Bearer {token}"})
                answer = client.getresponse()
                found: dict[str, Any] = json.loads(answer.read())
                client.close()
                assert answer.status == 200, found
                return found

            agent.wait_until("flows are shown", lambda: bool(asked("/api/flows")["flows"]))
            (node,) = asked("/api/nodes")["nodes"]
            assert (node["node"], node["pod"], node["reachable"]) == (NODE.name, "netpolq-a", True)
            assert {"accept", "deny"} <= {flow["verdict"] for flow in asked("/api/flows")["flows"]}
        finally:
            page.terminate()
            page.communicate(timeout=30)


def test_an_agent_enforces_without_certificates_and_serves_when_they_come(
    box: Box, folder: Path, certificates: ReportCertificates
) -> None:
    missing = certificates.client_ca.with_suffix(".later")
    certificates.client_ca.rename(missing)
    with Agent(box, folder, *FLAGS, *certificates.flags) as agent:
        assert refuses(box, certificates.client())
        problem = f"--report-tls-client-ca {certificates.client_ca}: No such file or directory; name a file that can be read"
        assert status_client.fetch(agent.run_dir).report == ReportStatus(address=f":{PORT}", problem=problem)
        assert f"{problem}; there are no certificates yet" in agent.log.read_text()
        missing.rename(certificates.client_ca)
        assert json.loads(get(box, certificates.client(), "/status"))["report"]["problem"] is None


def test_without_the_flag_nothing_listens(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=1") as agent:
        with pytest.raises(ConnectionRefusedError):
            connect(box, ssl.create_default_context())
        assert "report" in agent.status()
        assert agent.status().get("report") is None
