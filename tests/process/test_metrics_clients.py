"""Clients of the metrics endpoint that are many, slow, or send malformed requests."""

import os
import socket
import time

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil

from loadtest.testbed.agent import METRICS_PORT, Agent
from loadtest.testbed.box import Box
from netpolq.supervisor.http import MAX_CONNECTIONS
from tests.process.conftest import NODE, admit, assert_admitted

MANY = 400


def connect(box: Box) -> socket.socket:
    connection = box.inside(NODE.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    connection.settimeout(5.0)
    connection.connect(("127.0.0.1", METRICS_PORT))
    return connection


@contextmanager
def many_connections(box: Box, data: bytes, count: int = MANY) -> Iterator[list[socket.socket]]:
    """Open connections that send some bytes and stay open."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(connect(box))
            with suppress(OSError):  # the server has closed it for a later one
                connection.sendall(data)
            connections.append(connection)
        yield connections


def supervisor_of(agent: Agent) -> psutil.Process:
    supervisor = agent.supervisor()
    assert supervisor is not None
    return supervisor


def assert_served(agent: Agent) -> None:
    """Assert that well-formed requests are answered and policies come into force."""
    for _ in range(5):
        assert agent.is_ready()
        assert "netpolq_ready 1.0" in agent.metrics()
    assert agent.manifests is not None
    for app in ("stranger", "friend"):
        before = agent.status()
        admit(agent.manifests, app)
        agent.wait_until_enforced(before)
        assert_admitted(agent.box, app)


def test_idle_slow_and_malformed_clients_do_not_block_others_and_cost_little(shared_agent: Agent) -> None:
    supervisor = supervisor_of(shared_agent)
    assert_served(shared_agent)
    before, descriptors = supervisor.memory_info().rss, supervisor.num_fds()
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
    for data in (b"", b"GET /metrics HT", request + b"X: " + b"x" * 4000, (request + b"\r\n") * 3):
        with many_connections(shared_agent.box, data):
            assert_served(shared_agent)  # after all of these connections, which the server has accepted by then
            assert supervisor.num_fds() < descriptors + MAX_CONNECTIONS + 20
    with many_connections(shared_agent.box, b"", 20) as connections:
        for connection in connections:
            connection.sendall(os.urandom(2000))
        assert_served(shared_agent)
    assert supervisor.memory_info().rss < before + 32 * 2**20
    assert supervisor_of(shared_agent).pid == supervisor.pid
    assert "Traceback" not in shared_agent.log.read_text()


def test_unknown_paths_and_methods_get_their_status_codes(shared_agent: Agent) -> None:
    assert shared_agent.http("/nothing").code == 404
    assert shared_agent.http("/metrics?x=y").code == 200
    with connect(shared_agent.box) as connection:
        connection.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert connection.recv(64).startswith(b"HTTP/1.1 405 ")


def test_a_connection_without_a_whole_request_is_closed_after_a_while(shared_agent: Agent) -> None:
    with connect(shared_agent.box) as connection:
        began_s = time.monotonic()
        connection.settimeout(60.0)
        connection.sendall(b"GET /metrics HT")
        with suppress(ConnectionResetError):
            assert connection.recv(64) == b""
        assert time.monotonic() - began_s > 5


MALFORMED = (
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # the beginning of TLS
    b"GET /metrics HTTP/9.9\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
    b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20000 + b"\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)


def server_lines(agent: Agent) -> list[str]:
    """The lines that the server of metrics has logged; other parts may log at any moment."""
    return [line for line in agent.log.read_text().splitlines() if " http.server[" in line]


def test_a_malformed_request_is_one_line_in_the_log_that_names_the_client(shared_agent: Agent) -> None:
    for request in MALFORMED:
        before = len(server_lines(shared_agent))
        with connect(shared_agent.box) as connection:
            connection.sendall(request)
            with suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
        shared_agent.wait_until("answered", shared_agent.is_ready)
        lines = server_lines(shared_agent)[before:]
        if b"chunked" in request:  # refused for its method before the server reads the body
            assert len(lines) <= 1, lines
            continue
        assert len(lines) == 1, (request[:60], lines)
        assert "malformed request from 127.0.0.1" in lines[0]
