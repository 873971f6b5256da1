"""Packets and bytes of flows: real transfers of known sizes, which the kernel counts while conntrack accounting is on."""

import socket
import subprocess
import threading

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.flows.conntrack_counters import EndedConnections
from netpolq.flows.record import FlowRecord
from netpolq.netlink.nfnetlink import NLM_F_ACK, message, read_acknowledgements
from netpolq.netlink.nftables import open_socket
from netpolq.supervisor import status_client
from netpolq.supervisor.status import TrafficStatus
from tests.process.conftest import FRIEND, SERVER, STRANGER, assert_admitted
from tests.process.test_flows_command import records, run

SIZE = 1_000_000
PORT = 5001
LIMIT_S = 90.0
"""Connections that live are read twice a minute."""
_CT_DELETE = 1 << 8 | 2  # IPCTNL_MSG_CT_DELETE
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_SERVICE = "10.71.9.9"


def set_accounting(box: Box, value: str) -> None:
    box.inside("node", lambda: Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text(value, encoding="ascii"))


@pytest.fixture
def agent(box: Box, folder: Path) -> Iterator[Agent]:
    """An agent on a node with accounting. The policy of the server names no port."""
    set_accounting(box, "1")
    with Agent(box, folder, "--workers=1", "--fail-open=false", limit_s=LIMIT_S) as agent:
        agent.wait_until("traffic is counted", lambda: traffic(agent).counted)
        yield agent


def traffic(agent: Agent) -> TrafficStatus:
    flows = status_client.fetch(agent.run_dir).flows
    assert flows is not None
    assert flows.traffic is not None
    return flows.traffic


@contextmanager
def connected(box: Box, family: int, address: str = "", port: int = PORT) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection of the friend to the server. `address`, `port`: what the friend connects to."""
    own = box.address(SERVER.name, family)
    with (
        closing(box.inside(SERVER.name, lambda: socket.create_server((own, PORT), family=_FAMILIES[family]))) as listener,
        closing(box.inside(FRIEND.name, lambda: socket.socket(_FAMILIES[family]))) as client,
    ):
        client.settimeout(10)
        client.connect((address or own, port))
        server, _peer = listener.accept()
        with closing(server):
            yield client, server


def send(client: socket.socket, server: socket.socket, size: int) -> None:
    sender = threading.Thread(target=client.sendall, args=(bytes(size),))
    sender.start()
    while size:
        size -= len(server.recv(65536))
    sender.join()


def end_all_connections(box: Box) -> None:
    """Empty the connection table of the node, which the kernel reports like the end of each connection."""

    def flush() -> None:
        with open_socket() as netlink:
            netlink.send(message(_CT_DELETE, flags=NLM_F_ACK, sequence=1))
            read_acknowledgements(netlink, {1})

    box.inside("node", flush)


def of(agent: Agent, source: str, protocol: str = "TCP", port: int = PORT) -> list[FlowRecord]:
    return [
        found
        for found in records(run(agent, "--since=1h")[0])
        if (found.flow.source.pod_name, found.flow.protocol, found.flow.port) == (source, protocol, port)
    ]


def octets(found: list[FlowRecord]) -> int:
    return sum(one.octets or 0 for one in found)


def wait_for_octets(
    agent: Agent, size: int, source: str = FRIEND.name, protocol: str = "TCP", limit: float = 1.2
) -> list[FlowRecord]:
    """Wait until the flows of a pod have this size at least. Returns their records."""
    agent.wait_until(f"{size} bytes of {protocol} are counted", lambda: octets(of(agent, source, protocol)) >= size)
    found = of(agent, source, protocol)
    assert octets(found) < limit * size
    assert sum(one.packets or 0 for one in found) > size // 65536
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_a_transfer_counts_with_its_headers_and_a_denied_connection_has_none(box: Box, agent: Agent, family: int) -> None:
    assert_admitted(box, "friend", families=(family,))
    with connected(box, family) as (client, server):
        send(client, server, SIZE)
    agent.wait_until("the flow is recorded", lambda: bool(of(agent, FRIEND.name)) and bool(of(agent, STRANGER.name, port=80)))
    end_all_connections(box)
    found = wait_for_octets(agent, SIZE)
    assert sum(one.connections for one in found) == 1
    assert {(one.packets, one.octets) for one in of(agent, STRANGER.name, port=80)} == {(None, None)}
    assert traffic(agent).missed == 0
    wide = run(agent, "--output=wide", f"--port={PORT}")[0].splitlines()
    assert str(octets(found)) in wide[1].split()


@pytest.mark.flows
def test_datagrams_count(box: Box, agent: Agent) -> None:
    address = (box.address(SERVER.name, 4), PORT)
    with (
        closing(box.inside(SERVER.name, lambda: socket.socket(type=socket.SOCK_DGRAM))) as server,
        closing(box.inside(FRIEND.name, lambda: socket.socket(type=socket.SOCK_DGRAM))) as client,
    ):
        server.bind(address)
        server.settimeout(10)
        for _ in range(200):
            client.sendto(bytes(1000), address)
            server.recv(2000)
    agent.wait_until("the flow is recorded", lambda: bool(of(agent, FRIEND.name, "UDP")))
    end_all_connections(box)
    found = wait_for_octets(agent, 200 * 1000, protocol="UDP")
    assert sum(one.packets or 0 for one in found) == 200
    assert octets(found) == 200 * (1000 + 28)


@pytest.mark.flows
def test_a_connection_through_a_service_counts_for_the_pod_behind_it(box: Box, agent: Agent) -> None:
    rules = (
        "table ip services { chain prerouting { type nat hook prerouting priority dstnat; "
        f"ip daddr {_SERVICE} tcp dport 80 dnat to {box.address(SERVER.name, 4)}:{PORT}; }}; }}"
    )
    box.inside("node", lambda: subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True))
    with connected(box, 4, _SERVICE, 80) as (client, server):
        send(client, server, SIZE)
    agent.wait_until("the flow is recorded", lambda: bool(of(agent, FRIEND.name)))
    end_all_connections(box)
    assert {one.flow.destination.pod_name for one in wait_for_octets(agent, SIZE)} == {SERVER.name}


@pytest.mark.flows
def test_a_long_connection_counts_while_it_lives_and_once(box: Box, agent: Agent) -> None:
    with connected(box, 4) as (client, server):
        send(client, server, SIZE)
        agent.wait_until("the flow is recorded", lambda: bool(of(agent, FRIEND.name)))
        wait_for_octets(agent, SIZE)
        send(client, server, SIZE)
    end_all_connections(box)
    found = wait_for_octets(agent, 2 * SIZE)
    assert sum(one.connections for one in found) == 1
    assert 0 in {one.connections for one in found}, "traffic of later windows has records of its own"


@pytest.mark.flows
def test_without_accounting_nothing_is_counted_and_a_running_agent_follows_the_setting(box: Box, folder: Path) -> None:
    set_accounting(box, "0")
    with Agent(box, folder, "--workers=1", "--fail-open=false", limit_s=LIMIT_S) as agent:
        with connected(box, 4) as (client, server):
            send(client, server, 1000)
        agent.wait_until("the flow is recorded", lambda: bool(of(agent, FRIEND.name)))
        assert traffic(agent) == TrafficStatus(counted=False, missed=0, problem=None)
        end_all_connections(box)
        assert {(one.packets, one.octets) for one in of(agent, FRIEND.name)} == {(None, None)}
        set_accounting(box, "1")
        agent.wait_until("traffic is counted", lambda: traffic(agent).counted)
        set_accounting(box, "0")
        agent.wait_until("traffic is not counted any more", lambda: not traffic(agent).counted)


@pytest.mark.flows
def test_ended_connections_that_find_no_room_are_counted_as_missed(box: Box) -> None:
    """Those that were read and those that were missed are all."""
    set_accounting(box, "1")
    with closing(box.inside("node", lambda: EndedConnections(16384))) as ended:
        with closing(box.inside(FRIEND.name, lambda: socket.socket(type=socket.SOCK_DGRAM))) as client:
            for port in range(2000, 2300):
                client.sendto(b"x", (box.address(SERVER.name, 4), port))
        end_all_connections(box)
        found, is_all = ended.drain(10.0)
        assert is_all
        assert ended.missed > 0
        ours = [reading for reading in found if 2000 <= reading.connection.port < 2300]
        assert ours
        assert len(ours) + ended.missed >= 300
        assert {(reading.packets, reading.octets) for reading in ours} == {(1, 29)}
