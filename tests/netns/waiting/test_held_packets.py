"""Packets that wait in a real queue until their addresses are known: which pass, when, and what a death of the waiting process costs."""

import os
import signal
import socket
import struct
import time

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netpolq.enums import PacketMark
from netpolq.netlink import queue_table
from netpolq.netlink.queue_table import QueueStats
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.packet import Question
from tests.netns.dataplane.lab import ADDRESS, FAMILIES, NODE, OUTSIDE, A, B, Lab
from tests.netns.waiting.pool import Pool, passed, queue_new_connections

FAIL_OPEN = pytest.mark.parametrize("fail_open", [False, True], ids=["fail-closed", "fail-open"])
KILLS = 20
MIN_UPTIME_S = 0.15
"""More than 0.1 s: a process that exits earlier has failed, and its replacements wait."""
LONG = "--hold-timeout=30"
FRIENDS = (ADDRESS[A, 4], ADDRESS[A, 6])
STRANGERS = (ADDRESS[OUTSIDE, 4], ADDRESS[OUTSIDE, 6])


@pytest.fixture
def pools(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pool]]:
    """Starts pools. The first one gets the packets of new connections to pod b, whose sources the kernel does not know."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nonexistent")  # as the pool's program does, for its workers
    with ExitStack() as stack:

        def start(*flags: str, first_queue: int = 100, workers: int = 1) -> Pool:
            pool = Pool(lab, first_queue, *flags, workers=workers)
            stack.callback(pool.close)
            pool.start()
            if first_queue == 100:
                queue_new_connections(lab, pool, PacketMark.UNKNOWN_SOURCE)
            return pool

        yield start


@pytest.fixture
def server(lab: Lab) -> Iterator[socket.socket]:
    with lab.udp(B, 4, 9000) as bound:
        yield bound


def send(lab: Lab, source: str, data: bytes, family: int = 4) -> None:
    with lab.udp(source, family) as client:
        client.sendto(data, (ADDRESS[B, family], 9000))


def received(server: socket.socket, count: int) -> set[bytes]:
    return {server.recv(100) for _ in range(count)}


def nothing_arrives(server: socket.socket) -> bool:
    server.settimeout(0.2)
    try:
        server.recv(100)
    except TimeoutError:
        return True
    finally:
        server.settimeout(20.0)
    return False


def queue_row(lab: Lab, queue_num: int) -> QueueStats:
    with lab.inside(NODE):
        rows = queue_table.read(Path("/proc/thread-self/net/netfilter/nfnetlink_queue"))
    return next(row for row in rows if row.queue_num == queue_num)


def flag(fail_open: bool) -> str:
    return f"--fail-open={str(fail_open).lower()}"


# --- known, and not known in time -----------------------------------------------------------------------------------------------


@FAMILIES
def test_a_first_packet_waits_until_its_source_is_known(lab: Lab, pools: Callable[..., Pool], family: int) -> None:
    pool = pools(flag(False), LONG)
    with lab.udp(B, family, 9000) as server:
        send(lab, A, b"friend", family)
        send(lab, OUTSIDE, b"stranger", family)
        pool.holds(2)
        assert nothing_arrives(server)
        pool.publish(FRIENDS, STRANGERS, (*FRIENDS, *STRANGERS))
        pool.holds(0)
        assert server.recv(100) == b"friend"
        assert nothing_arrives(server)
    assert (passed(lab, "accepted"), passed(lab, "unjudged")) == (1, 0)
    pool.run_until("counted", lambda: pool.counted("netpolq_held_packets", outcome="accepted") == 1)
    assert pool.counted("netpolq_held_packets", outcome="denied") == 1


@FAMILIES
def test_a_connection_is_established_after_its_first_packet_has_waited(lab: Lab, pools: Callable[..., Pool], family: int) -> None:
    """TCP: the first SYN waits, and its repetitions do. None of them is answered before."""
    pool = pools(flag(False), LONG)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as stack:
        with lab.inside(B):
            listener = stack.enter_context(socket.socket(kind, socket.SOCK_STREAM))
        listener.bind((ADDRESS[B, family], 9001))
        listener.listen()
        with lab.inside(A):
            client = stack.enter_context(socket.socket(kind, socket.SOCK_STREAM))
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect((ADDRESS[B, family], 9001))
        pool.run_until("it waits", lambda: pool.waiting.held >= 1)
        pool.publish(FRIENDS, (), FRIENDS)
        pool.holds(0)
        listener.settimeout(20.0)
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(20.0)
        client.settimeout(20.0)
        client.send(b"hello")
        assert server.recv(5) == b"hello"


@FAMILIES
def test_a_ping_waits_too(lab: Lab, pools: Callable[..., Pool], family: int) -> None:
    pool = pools(flag(False), LONG)
    with lab.inside(A):
        ping = socket.socket(
            *((socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.SOCK_RAW, 58))
        )
    with ping:
        ping.settimeout(20.0)
        request = struct.pack("!BBHHH", 8 if family == 4 else 128, 0, 0xF7FD if family == 4 else 0, 1, 1)
        ping.sendto(request, (ADDRESS[B, family], 0))
        pool.holds(1)
        pool.publish(FRIENDS, (), FRIENDS)
        pool.holds(0)
        reply_type, header = (0, 20) if family == 4 else (129, 0)
        while ping.recv(200)[header] != reply_type:
            pass  # messages of neighbour discovery


@FAIL_OPEN
@FAMILIES
def test_after_the_time_the_failure_mode_decides(lab: Lab, pools: Callable[..., Pool], fail_open: bool, family: int) -> None:
    pool = pools(flag(fail_open), "--hold-timeout=1")
    with lab.udp(B, family, 9000) as server:
        send(lab, A, b"unknown", family)
        pool.holds(1)
        pool.holds(0)
        if fail_open:
            assert server.recv(100) == b"unknown"
        else:
            assert nothing_arrives(server)
    assert (passed(lab, "accepted"), passed(lab, "unjudged")) == (0, int(fail_open))
    pool.run_until("counted", lambda: pool.counted("netpolq_held_packets", outcome="timed-out") == 1)
    assert pool.counted("netpolq_failed_packets", cause="timed-out") == 1


def test_a_packet_of_a_known_source_does_not_wait(lab: Lab, pools: Callable[..., Pool], server: socket.socket) -> None:
    """The kernel's set may be older than the snapshot of the workers."""
    pool = pools(flag(False), LONG)
    pool.publish(FRIENDS, STRANGERS)
    pool.run_until("loaded", pool.is_current)
    send(lab, OUTSIDE, b"stranger")
    send(lab, A, b"friend")
    assert server.recv(100) == b"friend"
    assert nothing_arrives(server)
    pool.run_until("counted", lambda: pool.counted("packet_count") == 2)
    assert pool.counted("netpolq_held_packets") == 0


# --- deaths ---------------------------------------------------------------------------------------------------------------------


@FAIL_OPEN
def test_what_is_held_survives_each_death_of_the_waiting_process(
    lab: Lab, pools: Callable[..., Pool], server: socket.socket, fail_open: bool
) -> None:
    """Packets are held all the time, those sent before the first death and between deaths."""
    pool = pools(flag(fail_open), LONG)
    sent = {b"before"}
    send(lab, A, b"before")
    send(lab, OUTSIDE, b"stranger")
    pool.holds(2)
    for number in range(KILLS):
        if number < 10:
            sent.add(f"between {number}".encode())
            send(lab, A, f"between {number}".encode())  # read by the process that dies, or by its replacement
        before = pool.waiting.pid
        pool.holds(len(sent) + 1)
        time.sleep(MIN_UPTIME_S)
        os.kill(before, signal.SIGKILL)
        pool.run_until("replaced", lambda gone=before: pool.waiting.pid not in {0, gone})  # type: ignore[misc]
    pool.holds(len(sent) + 1)
    pool.publish(FRIENDS, STRANGERS, (*FRIENDS, *STRANGERS))
    pool.holds(0)
    assert received(server, len(sent)) == sent
    assert nothing_arrives(server)
    assert (passed(lab, "accepted"), passed(lab, "unjudged")) == (len(sent), 0)


POISON_PORT = 6666


@FAIL_OPEN
def test_a_packet_whose_evaluation_ends_the_process_is_dropped_once_and_the_others_stay(
    lab: Lab, pools: Callable[..., Pool], server: socket.socket, monkeypatch: pytest.MonkeyPatch, fail_open: bool
) -> None:
    evaluate = FlowCache.answer

    def aborting(self: FlowCache, question: Question) -> int:
        if question[3] == POISON_PORT:
            os.abort()
        return evaluate(self, question)

    monkeypatch.setattr(FlowCache, "answer", aborting)
    pool = pools(flag(fail_open), LONG)
    send(lab, A, b"friend")
    with lab.udp(A, 4) as client, lab.udp(B, 4, POISON_PORT) as target:
        client.sendto(b"poison", (ADDRESS[B, 4], POISON_PORT))
        send(lab, OUTSIDE, b"stranger")
        pool.holds(3)
        before = pool.waiting.pid
        time.sleep(MIN_UPTIME_S)
        pool.publish(FRIENDS, (), FRIENDS)
        pool.run_until("replaced", lambda: pool.waiting.pid not in {0, before})
        pool.holds(1)
        assert server.recv(100) == b"friend"
        assert nothing_arrives(target)
    successor = pool.waiting.pid
    pool.run_until("counted", lambda: pool.counted("netpolq_failed_packets", cause="suspect") == 1)
    pool.publish(FRIENDS, STRANGERS, STRANGERS)
    pool.holds(0)
    assert pool.waiting.pid == successor
    assert nothing_arrives(server)


def test_a_damaged_table_costs_what_is_held_and_no_more(lab: Lab, pools: Callable[..., Pool], server: socket.socket) -> None:
    pool = pools(flag(False), LONG)
    send(lab, A, b"lost")
    pool.holds(1)
    before = pool.waiting.pid
    time.sleep(MIN_UPTIME_S)
    os.pwrite(pool.workers.held_table, b"\x07", 64)
    os.kill(before, signal.SIGKILL)
    pool.run_until("replaced", lambda: pool.waiting.pid not in {0, before})
    send(lab, A, b"next")
    pool.holds(1)
    pool.publish(FRIENDS, (), FRIENDS)
    assert server.recv(100) == b"next"
    assert nothing_arrives(server)
    assert queue_row(lab, 101).queue_total == 0


# --- the end, and a takeover ----------------------------------------------------------------------------------------------------


def test_packets_that_wait_move_to_the_agent_that_takes_over(lab: Lab, pools: Callable[..., Pool], server: socket.socket) -> None:
    """Also those that the workers move while they drain. A stranger is denied there, and the time of waiting begins again."""
    old = pools(flag(False), LONG, workers=2)
    new = pools(flag(False), LONG, first_queue=200)
    for number in range(5):
        send(lab, A, f"held {number}".encode())
    send(lab, OUTSIDE, b"stranger")
    old.holds(6)
    workers = [old.reports[slot].pid for slot in (0, 1)]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    for number in range(5):
        send(lab, A, f"queued {number}".encode())
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    old.drain(new.settings.waiting_queue)
    new.holds(11)
    assert nothing_arrives(server)
    assert old.counted("netpolq_held_packets", outcome="handed-over") == 11
    new.publish(FRIENDS, STRANGERS, (*FRIENDS, *STRANGERS))
    new.holds(0)
    assert received(server, 10) == {f"{what} {number}".encode() for what in ("held", "queued") for number in range(5)}
    assert nothing_arrives(server)


@FAIL_OPEN
def test_without_a_successor_what_waits_gets_the_verdict_of_the_failure_mode(
    lab: Lab, pools: Callable[..., Pool], server: socket.socket, fail_open: bool
) -> None:
    pool = pools(flag(fail_open), LONG)
    for number in range(3):
        send(lab, A, f"{number}".encode())
    pool.holds(3)
    pool.drain()
    assert pool.counted("netpolq_held_packets", outcome="ended") == 3
    if fail_open:
        assert received(server, 3) == {b"0", b"1", b"2"}
        assert passed(lab, "unjudged") == 3
    else:
        assert nothing_arrives(server)


@FAIL_OPEN
def test_a_successor_that_has_ended_leaves_the_packets_to_the_failure_mode(
    lab: Lab, pools: Callable[..., Pool], server: socket.socket, fail_open: bool
) -> None:
    """Its queue is gone."""
    pool = pools(flag(fail_open), LONG)
    send(lab, A, b"held")
    pool.holds(1)
    pool.drain(202)
    if fail_open:
        assert server.recv(100) == b"held"
    else:
        assert nothing_arrives(server)


def test_a_waiting_process_that_is_killed_while_the_pool_drains_is_replaced(
    lab: Lab, pools: Callable[..., Pool], server: socket.socket
) -> None:
    old, new = pools(flag(False), LONG), pools(flag(False), LONG, first_queue=200)
    for number in range(3):
        send(lab, A, f"{number}".encode())
    old.holds(3)
    time.sleep(MIN_UPTIME_S)
    os.kill(old.waiting.pid, signal.SIGKILL)
    old.drain(new.settings.waiting_queue)
    new.holds(3)
    new.publish(FRIENDS, (), FRIENDS)
    assert received(server, 3) == {b"0", b"1", b"2"}


# --- bounds ---------------------------------------------------------------------------------------------------------------------


def test_a_flood_for_one_unknown_address_does_not_displace_what_waits_for_another(
    lab: Lab, pools: Callable[..., Pool], server: socket.socket
) -> None:
    pool = pools(flag(False), LONG)
    send(lab, A, b"friend")
    pool.holds(1)
    with lab.udp(OUTSIDE, 4) as client:
        for number in range(2000):
            client.sendto(b"flood", (ADDRESS[B, 4], 10000 + number))
            if number % 100 == 0:
                pool.run_once()
    pool.run_until("all are read", lambda: pool.counted("netpolq_held_packets", outcome="displaced") == 2000 - 16)
    pool.holds(17)
    pool.publish(FRIENDS, (), FRIENDS)
    assert server.recv(100) == b"friend"


@FAMILIES
def test_fragments_wait_as_one_packet(lab: Lab, pools: Callable[..., Pool], family: int) -> None:
    """Conntrack has put them together before they are queued. A later fragment that arrives alone has no ports, see the unit tests."""
    pool = pools(flag(False), LONG)
    data = bytes(4000)
    with lab.udp(B, family, 9000) as server:
        send(lab, A, data, family)
        pool.holds(1)
        pool.publish(FRIENDS, (), FRIENDS)
        assert server.recv(5000) == data
