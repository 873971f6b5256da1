"""The DNS reader between the kernel and real workers: a DNS server, clients, and a test in place of the supervisor."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import dns.message
import dns.query
import psutil
import pytest

from loadtest.testbed.box import Box, Host
from netpolq.addresses import parse_address
from netpolq.dataplane.probe import probe
from netpolq.dataplane.queue_rule import replace_queue_rule
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import ENQUEUE, TABLE
from netpolq.enums import Dataplane, NodeEgress, PacketMark
from netpolq.ipc import settings_document
from netpolq.ipc.agent_settings import Settings
from netpolq.ipc.channel import Answer, AnswersInForce, Publish, Report, Resolvers
from netpolq.netlink.nftables import commit
from netpolq.settings import resolve
from netpolq.snapshot import memfd
from netpolq.snapshot.ir import CompiledDelta
from tests.support.compiled import encode
from tests.support.dns_messages import answered, query
from tests.support.given_supervisor import LIMIT_S, GivenSupervisor

NODE = Host(name="node", addresses=("10.75.0.1", "fd75::1"))
POD = Host(name="app/pod", addresses=("10.75.1.1", "fd75:1::1"))
OTHER = Host(name="app/other", addresses=("10.75.1.2", "fd75:1::2"))
SERVER = Host(name="dns/server", addresses=("10.75.2.1", "fd75:2::1"))
PLAYED = Host(name="dns/played", addresses=("10.75.2.2", "fd75:2::2"))  # a resolver that the test plays
STRANGER = Host(name="dns/stranger", addresses=("10.75.2.3", "fd75:2::3"))  # another server, no resolver
FAMILIES = pytest.mark.parametrize("family", [4, 6])

NAME, BIG = "www.example.com", "big.example.com"
ADDRESSES = {"A": "192.0.2.1", "AAAA": "2001:db8::1"}
BIG_ADDRESSES = {parse_address(f"192.0.2.{number}") for number in range(100, 200)}
WORKERS = 2
SLOTS = WORKERS + 1
"""Workers and the waiting process; the standby worker has none."""
SILENCE_S = 0.15
_FOREIGN_BIT = 1

POOL = """
import sys
from netpolq_worker.__main__ import main
sys.exit(main([sys.argv[1]], [sys.executable, "-m", "tests.support.given_supervisor", sys.argv[2]]))
"""


class Setting:
    """A pool whose supervisor is the test, with rules that queue all DNS and drop what no worker has accepted."""

    def __init__(self, box: Box, *flags: str) -> None:
        self.box = box
        self.log = box.directory / "pool.log"
        self.settings = resolve(["--run-dir", str(box.directory / "run"), f"--workers={WORKERS}", *flags], {})
        self.sockets = ExitStack()
        self.supervisor = GivenSupervisor(box.directory / "supervisor")
        argv = [sys.executable, "-c", POOL, settings_document.encode(self.settings), str(box.directory / "supervisor")]
        self.pool = box.popen(NODE.name, argv, log=self.log)
        self.supervisor.accept()
        self.publish()
        self.supervisor.wait_until("all forks", lambda: len(self.forks()) == SLOTS + 1)
        box.inside(NODE.name, lambda: _install(self.settings))
        box.nft(_rules(self.settings))

    def publish(self) -> None:
        """A snapshot that denies nothing. Waits until all workers and the waiting process use it."""
        versions = [report.acked_version for report in self.supervisor.of_type(Report)]
        version = max([0, *versions]) + 1
        descriptor = memfd.seal(encode(CompiledDelta(), version=version))
        self.supervisor.send(Publish(version, None), [descriptor])
        os.close(descriptor)

        def is_used() -> bool:
            newest = {report.slot: report.acked_version for report in self.supervisor.of_type(Report)}
            return len(newest) == SLOTS and min(newest.values()) == version

        self.supervisor.wait_until("the snapshot is used", is_used)

    def forks(self) -> set[int]:
        """The forks of the pool: workers, standby worker, DNS reader."""
        pool = psutil.Process(self.pool.pid)
        found = set()
        for child in pool.children():
            with suppress(psutil.NoSuchProcess):
                if child.cmdline() == pool.cmdline():
                    found.add(child.pid)
        return found

    def start_reader(self) -> int:
        """Name the resolvers. Returns the pid of the reader."""
        before = self.forks()
        self.supervisor.send(resolvers())
        self.supervisor.wait_until("a reader", lambda: bool(self.forks() - before))
        (pid,) = self.forks() - before
        return pid

    def answers(self, wanted: int) -> list[Answer]:
        """Wait for so many answers, and return all."""
        self.supervisor.wait_until(f"{wanted} answers", lambda: len(self.supervisor.of_type(Answer)) >= wanted)
        return self.supervisor.of_type(Answer)

    def outcome(self, kind: str, outcome: str) -> float:
        return self.supervisor.metric("netpolq_dns_messages_total", kind=kind, outcome=outcome)

    def wait_for_outcome(self, kind: str, outcome: str, wanted: int = 1) -> None:
        self.supervisor.wait_until(f"{wanted} {outcome}", lambda: self.outcome(kind, outcome) == wanted)

    def passed(self) -> tuple[int, int]:
        """Packets with the mark of accepted ones and with other bits kept, and all others, which are dropped."""
        listing = self.box.run(NODE.name, ["nft", "list", "counters", "table", "inet", TABLE]).stdout.split()
        accepted, other = (int(listing[place + 1]) for place, word in enumerate(listing) if word == "packets")
        return accepted, other

    def stop(self) -> int:
        if self.pool.poll() is None:
            self.pool.send_signal(signal.SIGTERM)
        return self.pool.wait(LIMIT_S)

    def close(self) -> None:
        self.sockets.close()
        self.supervisor.close()
        self.stop()


def resolvers(*hosts: Host) -> Resolvers:
    return Resolvers(tuple(parse_address(address) for host in hosts or (SERVER, PLAYED) for address in host.addresses))


def _install(settings: Settings) -> None:
    config = RulesetConfig(
        queue_first=settings.dns_queue,
        queue_count=1,
        fanout=False,
        fail_open=settings.fail_open,
        mark_mask=settings.mark_mask,
        ct_label=settings.ct_label,
        node_egress=NodeEgress.JUDGE,
        dns_in_prerouting=False,
        form=asyncio.run(probe(Dataplane.AUTO)),
    )
    commit(replace_queue_rule(config))


def _rules(settings: Settings) -> str:
    lowest = settings.mark_mask & -settings.mark_mask
    names, accepted = (state * lowest | _FOREIGN_BIT for state in (PacketMark.PENDING_NAMES, PacketMark.ACCEPTED))
    return f"""
    table inet {TABLE} {{
        counter accepted {{ }}
        counter other {{ }}
        chain names {{
            type filter hook postrouting priority 90;
            meta l4proto {{ tcp, udp }} th dport 53 meta mark set {names} jump {ENQUEUE}
            meta l4proto {{ tcp, udp }} th sport 53 meta mark set {names} jump {ENQUEUE}
        }}
        chain behind {{
            type filter hook postrouting priority 91;
            meta l4proto {{ tcp, udp }} th dport 53 goto by_mark
            meta l4proto {{ tcp, udp }} th sport 53 goto by_mark
        }}
        chain by_mark {{
            meta mark {accepted} counter name accepted accept
            counter name other drop
        }}
    }}"""


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(node=NODE, hosts=[POD, OTHER, SERVER, PLAYED, STRANGER]) as box:
        hosts = [f"--host-record={NAME},{ADDRESSES['A']},{ADDRESSES['AAAA']}"]
        hosts += [f"--host-record={BIG},192.0.2.{number}" for number in range(100, 200)]
        fixed = ("--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file", "--user=root")
        dnsmasq = [
            "dnsmasq",
            *fixed,
            "--address=/wild.example.com/192.0.2.9",
            "--local=/example.com/",
            "--local-ttl=300",
            f"--cname=alias.example.com,{NAME}",
            *hosts,
        ]
        box.popen(SERVER.name, dnsmasq, log=box.directory / "dnsmasq.log")
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                box.inside(SERVER.name, lambda: dns.query.udp(dns.message.make_query(NAME, "A"), SERVER.address(4), timeout=0.2))
                break
            except (OSError, dns.exception.Timeout):
                assert time.monotonic() < deadline, (box.directory / "dnsmasq.log").read_text()
        yield box


@pytest.fixture
def setting(box: Box) -> Iterator[Setting]:
    for leftover in ("supervisor", "run"):
        path = box.directory / leftover
        subprocess.run(["rm", "-rf", path], check=True)
    box.run(NODE.name, ["nft", "delete", "table", "inet", TABLE])
    made = Setting(box, "--fail-open=false")
    try:
        yield made
    finally:
        made.close()


class Client:
    """An unconnected UDP socket of a pod, which receives whatever arrives at its port."""

    def __init__(self, setting: Setting, host: Host = POD, family: int = 4) -> None:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        self.family = family
        self.socket = setting.sockets.enter_context(setting.box.inside(host.name, lambda: socket.socket(kind, socket.SOCK_DGRAM)))
        self.socket.bind((host.address(family), 0))
        self.socket.settimeout(LIMIT_S)
        self.port: int = self.socket.getsockname()[1]

    def ask(self, server: Host, name: str = NAME, record_type: str = "A", message_id: int = 7) -> bytes:
        asked = query(name + ".", record_type, message_id)
        self.socket.sendto(asked, (server.address(self.family), 53))
        return asked

    def receive(self) -> dns.message.Message:
        return dns.message.from_wire(self.socket.recv(4096))

    def has_received(self, within_s: float = SILENCE_S) -> bool:
        return bool(select.select([self.socket], [], [], within_s)[0])


class Played:
    """A server on port 53 of a host that answers what the test wants."""

    def __init__(self, setting: Setting, host: Host) -> None:
        self.socket = setting.sockets.enter_context(
            setting.box.inside(host.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        )
        self.socket.bind((host.address(4), 53))
        self.socket.settimeout(LIMIT_S)

    def question(self) -> tuple[bytes, tuple[str, int]]:
        data, client = self.socket.recvfrom(4096)
        return data, client


# --- the way of a response ------------------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("record_type", ["A", "AAAA"])
def test_a_response_arrives_when_its_address_is_in_force_and_not_before(setting: Setting, family: int, record_type: str) -> None:
    setting.start_reader()
    client = Client(setting, family=family)
    client.ask(SERVER, NAME.upper(), record_type)
    (answer,) = setting.answers(1)
    assert (answer.pod, answer.name) == (parse_address(POD.address(family)), NAME)
    assert answer.addresses == ((parse_address(ADDRESSES[record_type]), 300),)
    assert not client.has_received()
    setting.supervisor.send(AnswersInForce(answer.number - 1))
    assert not client.has_received()
    setting.supervisor.send(AnswersInForce(answer.number))
    assert ADDRESSES[record_type] in client.receive().answer[0].to_text()
    setting.wait_for_outcome("response", "learned")
    assert setting.outcome("query", "noted") == 1
    # The same again needs not wait.
    client.ask(SERVER, NAME, record_type, message_id=8)
    assert client.receive().id == 8
    setting.wait_for_outcome("response", "repeated")
    assert len(setting.supervisor.of_type(Answer)) == 1
    assert setting.passed() == (4, 0), "each packet was accepted by a worker, with the other bits of its mark kept"
    assert setting.supervisor.metric("netpolq_dns_held_packets_total") == 1
    assert setting.supervisor.metric("netpolq_dns_released_packets_total") == 1
    assert setting.supervisor.metric("netpolq_dns_delay_seconds_total") > SILENCE_S


def test_an_alias_gives_its_address_to_the_name_that_was_asked_for(setting: Setting) -> None:
    setting.start_reader()
    Client(setting).ask(SERVER, "alias.example.com")
    (answer,) = setting.answers(1)
    assert (answer.name, [address for address, _ttl in answer.addresses]) == (
        "alias.example.com",
        [parse_address(ADDRESSES["A"])],
    )


def test_parallel_questions_of_one_socket_are_answered_each_in_its_time(setting: Setting) -> None:
    """As the resolver of glibc asks."""
    setting.start_reader()
    client = Client(setting)
    client.ask(SERVER, record_type="A", message_id=1)
    client.ask(SERVER, record_type="AAAA", message_id=2)
    first, second = setting.answers(2)
    assert not client.has_received()
    setting.supervisor.send(AnswersInForce(first.number))
    client.receive()
    assert not client.has_received()
    setting.supervisor.send(AnswersInForce(second.number))
    client.receive()
    assert setting.passed() == (4, 0)


def test_a_response_that_is_never_in_force_arrives_after_a_second_at_most_and_unlearned(setting: Setting) -> None:
    setting.start_reader()
    client = Client(setting)
    started = time.monotonic()
    client.ask(SERVER)
    (answer,) = setting.answers(1)
    client.receive()
    assert time.monotonic() - started >= 1.0
    setting.supervisor.send(AnswersInForce(answer.number))  # late
    setting.wait_for_outcome("response", "late")
    client.ask(SERVER, message_id=8)
    assert len(setting.answers(2)) == 2, "what was late is not known as in force"
    assert setting.outcome("response", "learned") == 0


@FAMILIES
def test_a_truncated_response_is_followed_by_one_over_tcp(setting: Setting, family: int) -> None:
    setting.start_reader()
    done: list[tuple[dns.message.Message, bool]] = []

    def ask() -> None:
        asked = dns.message.make_query(BIG, "A")
        server = SERVER.address(family)
        done.append(setting.box.inside(POD.name, lambda: dns.query.udp_with_fallback(asked, server, timeout=LIMIT_S)))

    client = threading.Thread(target=ask)
    client.start()
    (answer,) = setting.answers(1)
    assert {address for address, _ttl in answer.addresses} == BIG_ADDRESSES
    client.join(SILENCE_S)
    assert not done
    setting.supervisor.send(AnswersInForce(answer.number))
    client.join(LIMIT_S)
    ((received, used_tcp),) = done
    assert (len(received.answer[0]), used_tcp) == (100, True)
    setting.wait_for_outcome("response", "truncated")
    setting.wait_for_outcome("response", "learned")
    assert setting.outcome("query", "noted") == 2
    assert setting.passed()[1] == 0


# --- lies -----------------------------------------------------------------------------------------------------------------------------


def test_lies_are_delivered_at_once_and_not_learned(setting: Setting) -> None:
    setting.start_reader()
    client, neighbour = Client(setting), Client(setting, OTHER)
    second_port = Client(setting)
    played, stranger = Played(setting, PLAYED), Played(setting, STRANGER)
    asked = client.ask(PLAYED)
    _data, asking = played.question()
    address = "192.0.2.66"
    lies = [
        (stranger, answered(asked, address), client, "untrusted"),
        (played, answered(query(message_id=8), address), client, "unmatched"),
        (played, answered(query("evil.example.com."), address), client, "unmatched"),
        (played, answered(query(record_type="AAAA"), "2001:db8::66"), client, "unmatched"),
        (played, answered(asked, address), second_port, "unmatched"),
        (played, answered(asked, address), neighbour, "unmatched"),
        (played, answered(asked, address)[:-1], client, "malformed"),
        (played, asked, client, "malformed"),
    ]
    for server, lie, to, _outcome in lies:
        server.socket.sendto(lie, (asking[0] if to is not neighbour else OTHER.address(4), to.port))
        assert to.socket.recv(4096) == lie
    outcomes = [outcome for _server, _lie, _to, outcome in lies]
    for outcome in set(outcomes):
        setting.wait_for_outcome("response", outcome, outcomes.count(outcome))
    assert setting.supervisor.of_type(Answer) == []
    played.socket.sendto(answered(asked, ADDRESSES["A"]), asking)
    (answer,) = setting.answers(1)
    assert [address for address, _ttl in answer.addresses] == [parse_address(ADDRESSES["A"])]


# --- the process --------------------------------------------------------------------------------------------------------------------------


def test_without_resolvers_packets_wait_and_no_reader_runs(setting: Setting) -> None:
    client = Client(setting)
    client.ask(STRANGER)
    played = Played(setting, STRANGER)
    assert not select.select([played.socket], [], [], SILENCE_S)[0]
    reader = setting.start_reader()
    played.question()
    setting.supervisor.send(Resolvers(()))
    setting.supervisor.wait_until("the reader has ended", lambda: reader not in setting.forks())
    assert len(setting.forks()) == SLOTS + 1
    client.ask(STRANGER)
    assert not select.select([played.socket], [], [], SILENCE_S)[0]
    setting.start_reader()
    played.question()
    assert setting.passed() == (2, 0)


def test_the_reader_is_confined_as_workers_are(setting: Setting) -> None:
    reader = setting.start_reader()
    Client(setting).ask(SERVER)
    setting.answers(1)
    states = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in (reader, *setting.forks() - {reader})]
    kept = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp:")
    restrictions = {tuple(line for line in state if line.startswith(kept)) for state in states}
    assert len(restrictions) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
def test_what_a_dead_reader_held_is_delivered_by_the_next_one(setting: Setting, number: signal.Signals) -> None:
    """After an evaluation by a worker, and unlearned."""
    reader = setting.start_reader()
    client = Client(setting)
    client.ask(SERVER)
    (first,) = setting.answers(1)
    setting.supervisor.wait_until("it is counted", lambda: setting.supervisor.metric("netpolq_dns_held_packets_total") == 1)
    os.kill(reader, number)
    client.receive()
    setting.wait_for_outcome("response", "orphaned")
    assert reader not in setting.forks()
    client.ask(SERVER, message_id=8)
    second = setting.answers(2)[1]
    assert second.number > first.number
    setting.supervisor.send(AnswersInForce(second.number))
    assert client.receive().id == 8
    assert setting.passed() == (4, 0)
    setting.wait_for_outcome("response", "learned")
    held, released = (setting.supervisor.metric(f"netpolq_dns_{what}_packets_total") for what in ("held", "released"))
    assert held == released, "no packet waits any more"


def test_what_waits_at_the_end_passes_a_worker_before_that(setting: Setting) -> None:
    reader = setting.start_reader()
    client = Client(setting)
    client.ask(SERVER)
    setting.answers(1)
    os.kill(reader, signal.SIGSTOP)
    setting.pool.send_signal(signal.SIGTERM)
    setting.supervisor.wait_until("the pool ends", lambda: "draining" in setting.log.read_text())
    assert not client.has_received()  # and workers that do not wait for the reader end meanwhile
    os.kill(reader, signal.SIGCONT)
    assert setting.stop() == 0
    client.receive()
    assert setting.passed() == (2, 0)


def test_another_supervisor_is_told_again_what_the_last_one_knew(setting: Setting) -> None:
    setting.start_reader()
    client = Client(setting)
    client.ask(SERVER)
    setting.supervisor.send(AnswersInForce(setting.answers(1)[0].number))
    client.receive()
    setting.supervisor.leave()
    setting.supervisor.accept()
    setting.supervisor.send(resolvers())
    numbers = count(8)

    def is_told() -> bool:
        """The first responses may overtake the message, and repeat what was in force before."""
        client.ask(SERVER, message_id=next(numbers))
        client.has_received()
        while client.has_received(0):
            client.receive()
        return bool(setting.supervisor.of_type(Answer))

    setting.supervisor.wait_until("it is told", is_told)
    setting.supervisor.send(AnswersInForce(setting.answers(1)[-1].number))
    assert client.receive().answer


def test_answers_wait_for_a_supervisor(setting: Setting) -> None:
    """A response is late then, and its addresses are learned all the same."""
    setting.start_reader()
    setting.supervisor.leave()
    client = Client(setting)
    client.ask(SERVER)
    client.receive()
    setting.supervisor.accept()
    assert setting.answers(1)[0].name == NAME
