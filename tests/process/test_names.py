"""Domain names in policies, with a real agent; the test plays the DNS reader."""

import json
import socket

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from loadtest.testbed.probe import Probe
from netpolq import cli
from netpolq.errors import ExitCode
from netpolq.ipc.run_dir import NAMES_FILE
from tests.support.cluster_policies import cluster_policy, rule
from tests.support.dns_answers import DnsAnswers, answering_agent

NODE = Host(name="node", addresses=("10.71.0.1", "fd71::1"))
CLIENT = Host(name="app/client", addresses=("10.71.1.1", "fd71:1::1"))
OUTSIDE = Host(name="outside", addresses=("10.71.2.1", "fd71:2::1"), serves=(("TCP", 80), ("UDP", 80)))
NAME = "www.example.com"
CLOSED = ("--fail-open=false", "--workers=2")


@pytest.fixture
def box() -> Iterator[Box]:
    with Box(node=NODE, hosts=[CLIENT, OUTSIDE]) as box:
        yield box


@pytest.fixture
def folder(box: Box) -> Path:
    """The client may reach `*.example.com`, and nothing else. The host outside is no pod."""
    folder = box.directory / "manifests"
    folder.mkdir()
    manifests.write(
        folder / "cluster.json",
        [
            manifests.namespace("app"),
            manifests.pod(CLIENT, NODE, app="client"),
            manifests.policy("app/closed", podSelector={}, policyTypes=["Egress"]),
        ],
    )
    use_name(folder, "*.example.com")
    return folder


def use_name(folder: Path, pattern: str) -> None:
    manifests.write(folder / "names.json", [cluster_policy("names", egress=[rule("Accept", {"domainNames": [pattern]})])])


def reaches(box: Box, *, families: tuple[int, ...] = (4, 6)) -> list[bool]:
    """Whether the client reaches the host outside, over each family."""
    return [
        result.reached
        for result in box.probe([Probe(CLIENT.name, box.address(OUTSIDE.name, one), "TCP", 80) for one in families])
    ]


def learn(box: Box, dns: DnsAnswers, ttl_s: int = 300) -> None:
    dns.learn(CLIENT.addresses[0], NAME, *OUTSIDE.addresses, ttl_s=ttl_s)


def wait_for_file(agent: Agent) -> None:
    """Wait until the copy has the names. It is written within a second."""
    path = agent.run_dir / NAMES_FILE
    agent.wait_until("the names are kept", lambda: path.exists() and OUTSIDE.addresses[0].encode() in path.read_bytes())


def test_a_name_opens_its_addresses_as_soon_as_an_answer_is_confirmed(box: Box, folder: Path) -> None:
    """Also where the kernel has a drop from before; and no longer than the policy names it."""
    with answering_agent(box, folder, *CLOSED, "--verdict-cache=on") as agent, DnsAnswers(box) as dns:
        for _ in range(3):
            assert reaches(box) == [False, False]
        agent.wait_until("the kernel has the drops", lambda: agent.status()["verdict_cache"]["entries"] > 0)
        learn(box, dns)
        assert reaches(box) == [True, True]
        before = agent.status()
        use_name(folder, "*.example.org")
        agent.wait_until_enforced(before)
        assert reaches(box) == [False, False]
        before = agent.status()
        use_name(folder, "*.example.com")
        agent.wait_until_enforced(before)
        assert reaches(box) == [False, False], "until the next answer"
        learn(box, dns)
        assert reaches(box) == [True, True]


def test_names_outlive_every_process_of_the_agent(box: Box, folder: Path) -> None:
    with answering_agent(box, folder, *CLOSED, "--verdict-cache=off") as agent, DnsAnswers(box) as dns:
        learn(box, dns)
        wait_for_file(agent)
        supervisor = agent.supervisor()
        assert supervisor is not None
        supervisor.kill()
        agent.wait_until("it has exited", lambda: not supervisor.is_running())
        while not agent.is_ready():
            assert reaches(box) == [True, True]
        assert reaches(box) == [True, True]
        assert learned(agent) == [NAME]
        agent.kill_all()
        agent.start()
        assert reaches(box) == [True, True]
        assert learned(agent) == [NAME]
        assert agent.stop() == ExitCode.OK
        agent.start()
        assert reaches(box) == [True, True]


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 1000, b'{"format":99,"pairs":[]}', b"[" * 100_000])
def test_a_spoiled_file_costs_its_names_and_nothing_else(box: Box, folder: Path, content: bytes) -> None:
    with answering_agent(box, folder, *CLOSED) as agent, DnsAnswers(box) as dns:
        learn(box, dns)
        wait_for_file(agent)
        agent.stop()
        (agent.run_dir / NAMES_FILE).write_bytes(content)
        agent.start()
        assert "names are learned again" in agent.log.read_text()
        assert reaches(box) == [False, False]
        learn(box, dns)
        assert reaches(box) == [True, True]


def test_a_replacement_knows_what_the_agent_before_it_has_learned(box: Box, folder: Path) -> None:
    """No connection is refused meanwhile, though the file was not written yet when the replacement started."""
    flags = (*CLOSED, "--takeover", "--verdict-cache=off")
    first = answering_agent(box, folder, *flags)
    first.start()
    second = answering_agent(box, folder, *flags)
    try:
        with DnsAnswers(box) as dns, ThreadPoolExecutor(1) as other:
            learn(box, dns)
            starting = other.submit(second.start)
            while first.is_running or not starting.done():
                assert reaches(box) == [True, True]
            starting.result()
            assert reaches(box) == [True, True]
            assert learned(second) == [NAME]
    finally:
        first.stop()
        second.stop()
        second.cleanup()


def test_after_its_time_an_address_is_closed_and_established_connections_go_on(box: Box, folder: Path) -> None:
    flags = (*CLOSED, "--dns-min-ttl=1", "--dns-grace=1")
    server = OUTSIDE.addresses[0], 9000
    with (
        answering_agent(box, folder, *flags) as agent,
        DnsAnswers(box) as dns,
        box.inside(OUTSIDE.name, lambda: socket.create_server(server)) as listener,
    ):
        before = agent.status()
        learn(box, dns, ttl_s=1)
        connection = box.inside(CLIENT.name, lambda: socket.create_connection(server, timeout=10))
        with connection, listener.accept()[0] as accepted:
            agent.wait_until(
                "the address is closed", lambda: agent.status()["in_force_version"] >= before["snapshot_version"] + 2
            )
            assert reaches(box) == [False, False]
            accepted.settimeout(10)
            for number in range(3):
                connection.sendall(bytes([number]))
                assert accepted.recv(1) == bytes([number])


def test_many_answers_a_second_share_versions_and_are_confirmed_in_order(box: Box, folder: Path) -> None:
    with answering_agent(box, folder, *CLOSED) as agent, DnsAnswers(box) as dns:
        before = agent.status()["snapshot_version"]
        for number in range(500):
            dns.send(CLIENT.addresses[0], f"n{number}.example.com", f"198.18.{number // 250}.{number % 250}")
        last = dns.send(CLIENT.addresses[0], NAME, *OUTSIDE.addresses)  # confirmations are lost while nothing receives them
        confirmed = [dns.receive()]
        while confirmed[-1] < last:
            confirmed.append(dns.receive())
        assert confirmed == sorted(confirmed)
        assert 1 <= agent.status()["snapshot_version"] - before < 500
        assert len(learned(agent)) == 501


def test_status_and_the_command_tell_what_is_known(box: Box, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering_agent(box, folder, *CLOSED, "--dns-servers=192.0.2.53") as agent, DnsAnswers(box) as dns:
        dns.learn(CLIENT.addresses[0], NAME, *OUTSIDE.addresses, "127.0.0.1", CLIENT.addresses[0], NODE.addresses[0])
        assert dns.ask_for_resolvers() == {"192.0.2.53"}
        run_dir = ("--run-dir", str(agent.run_dir))
        assert cli.main(["names", *run_dir]) == ExitCode.OK
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [line[:2] + line[-1:] for line in lines[1:]] == [[NAME, address, "names"] for address in OUTSIDE.addresses]
        assert cli.main(["names", "*.com", *run_dir, "-o", "json"]) == ExitCode.OK
        assert [one["name"] for one in json.loads(capsys.readouterr().out)["names"]] == [NAME]
        assert cli.main(["names", "other.example.com", *run_dir]) == ExitCode.FAILED
        assert "no address is known for the name 'other.example.com'" in capsys.readouterr().err
        assert cli.main(["status", *run_dir]) == ExitCode.OK
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("domain names")]
        assert (
            "2 addresses of 1 names; DNS servers: 192.0.2.53; not learned: 1 special-address, 1 pod-address, 1 node-address"
            in line
        )
        metrics = agent.metrics()
        assert "netpolq_learned_addresses 2.0" in metrics
        assert 'netpolq_learned_addresses_refused_total{cause="pod-address"} 1.0' in metrics
        assert 'netpolq_learned_addresses_refused_total{cause="node-address"} 1.0' in metrics
        assert "netpolq_trusted_dns_servers 1.0" in metrics
        assert "netpolq_dns_answer_seconds_count 1.0" in metrics


def learned(agent: Agent) -> list[str]:
    """The names that the agent knows."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(agent.run_dir / "status.sock"))
        connection.sendall(b"GET /names HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return [one["name"] for one in json.loads(answer.partition(b"\r\n\r\n")[2])["names"]]
