"""The sandbox of workers: what they cannot do, and that they work in it."""

import json
import os
import platform
import signal
import subprocess
import sys

from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import CHECKOUT, Box
from netpolq_worker.capabilities import POOL, SUPERVISOR
from netpolq_worker.worker.sandbox import WORKER_UID
from tests.process.conftest import admit, assert_admitted, waiting_of

NET_ADMIN = 1 << 12


@cache
def confined_calls() -> dict[str, Any]:
    """The calls that a process in the sandbox could make; see `tests.support.confined_calls`."""
    argv = [sys.executable, "-m", "tests.support.confined_calls"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=CHECKOUT)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_sandbox_refuses_every_system_call_but_those_that_a_worker_needs() -> None:
    """All numbers of the kernel's table, those of the i386 and x32 ABIs, and the dangerous arguments of calls that are allowed.

    Among these: fcntl with F_SETOWN, F_SETSIG and O_ASYNC, every ioctl, executable memory, a message to any address.
    """
    found = confined_calls()
    assert found["allowed"] == []
    assert found["tried"]["calls"] > 500
    assert found["tried"]["arguments"] > 200
    if platform.machine() == "x86_64":
        assert found["tried"]["x32"] == 700


def test_a_sandboxed_process_keeps_one_capability_and_runs_as_another_user() -> None:
    status = confined_calls()["status"]
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [NET_ADMIN, NET_ADMIN, 0, 0]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == status["Gid"].split() == [str(WORKER_UID)] * 4
    assert status["Groups"].split() == []


SEND_RAW = """
import errno, fcntl, os, socket
from netpolq_worker.worker.answer_sockets import open_answer_sockets
from netpolq_worker.worker.sandbox import Sandbox
opened, datagrams = open_answer_sockets(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
raw = opened.sockets[4]
packet = bytes.fromhex("4500001c000040004001000000000000 7f000001 0800f7ff00000000".replace(" ", ""))
Sandbox(answer_sockets=opened).apply()
print(raw.sendto(packet, ("127.0.0.1", 0)))

def errno_of(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "none"

print(errno_of(datagrams.sendto, b"x", "\\0nowhere"))
number = raw.fileno()
raw.close()
print(errno_of(fcntl.fcntl, datagrams.fileno(), fcntl.F_DUPFD_CLOEXEC, number))
while errno_of(fcntl.fcntl, 1, fcntl.F_DUPFD_CLOEXEC, 0) != "EMFILE":
    pass
print(errno_of(os.close, number))
"""


def test_a_sandboxed_process_sends_to_addresses_on_the_raw_sockets_alone() -> None:
    """Other sockets cannot: also not under the number of a raw socket that is closed, however many descriptors are open."""
    done = subprocess.run([sys.executable, "-c", SEND_RAW], capture_output=True, text=True, check=False, timeout=60, cwd=CHECKOUT)
    assert (done.stdout.split(), done.stderr) == (["28", "EPERM", "EINVAL", "EBADF"], "")


ASYNC_KILL = """
import fcntl, os, signal, socket, sys
from netpolq_worker.worker.sandbox import Sandbox
victim, (ours, theirs) = int(sys.argv[1]), socket.socketpair()
Sandbox().apply()
refused = []
for command, argument in ((fcntl.F_SETOWN, victim), (fcntl.F_SETSIG, signal.SIGKILL), (fcntl.F_SETFL, os.O_ASYNC)):
    try:
        fcntl.fcntl(theirs.fileno(), command, argument)
    except PermissionError:
        refused.append(command)
ours.send(b"x")
print(len(refused))
"""


def test_a_sandboxed_process_cannot_make_the_kernel_kill_another() -> None:
    """With asynchronous I/O, a process can make the kernel send any signal to any process. The sandbox refuses that."""
    with subprocess.Popen(["/usr/bin/sleep", "60"]) as victim:
        try:
            argv = [sys.executable, "-c", ASYNC_KILL, str(victim.pid)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
            assert (done.stdout.strip(), done.stderr) == ("3", "")
            assert victim.poll() is None
        finally:
            victim.kill()


def test_every_worker_is_sandboxed_also_when_root_starts_the_agent_on_a_machine(shared_agent: Agent) -> None:
    """The standby worker too."""

    def is_confined(pid: int) -> bool:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        capabilities = int(status["CapEff"], 16), int(status["CapPrm"], 16)
        user = {*status["Uid"].split(), *status["Gid"].split()}
        return (*capabilities, status["NoNewPrivs"], status["Seccomp"], user) == (
            NET_ADMIN,
            NET_ADMIN,
            "1",
            "2",
            {str(WORKER_UID)},
        )

    assert all(is_confined(worker["pid"]) for worker in shared_agent.status()["workers"])
    shared_agent.wait_until("there is a standby worker", lambda: len(shared_agent.forks()) == 4)
    shared_agent.wait_until("and it is sandboxed", lambda: all(is_confined(process.pid) for process in shared_agent.forks()))


def test_pool_and_supervisor_keep_only_the_capabilities_that_they_use(shared_agent: Agent) -> None:
    """The pool keeps CAP_NET_ADMIN, and those to start and kill workers of another user. No program that it starts regains others."""

    def sets(pid: int) -> tuple[int, ...]:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd"))

    supervisor = shared_agent.supervisor()
    assert supervisor is not None
    for_supervisor = bits(SUPERVISOR)
    assert sets(supervisor.pid) == (for_supervisor, for_supervisor, for_supervisor)
    assert sets(shared_agent.pool.pid) == (bits(POOL), bits(POOL), for_supervisor)
    assert bits(POOL | SUPERVISOR) == sum(1 << number for number in (2, 5, 6, 7, 10, 12))


def bits(capabilities: frozenset[int]) -> int:
    return sum(1 << capability for capability in capabilities)


def test_an_agent_of_root_reads_manifests_that_only_another_user_may_read(box: Box, folder: Path) -> None:
    folder.chmod(0o700)
    os.chown(folder, 65534, 65534)
    for path in folder.iterdir():
        path.chmod(0o600)
        os.chown(path, 65534, 65534)
    with Agent(box, folder, "--fail-open=false", "--workers=1"):
        assert_admitted(box, "friend")


def test_a_hung_worker_of_another_user_is_killed_and_replaced(shared_agent: Agent) -> None:
    """This needs CAP_KILL: the pool is root, and the worker is not."""
    first = shared_agent.status()["workers"][0]["pid"]
    shared_agent.kill(first, signal.SIGSTOP)
    shared_agent.wait_until("it is replaced", lambda: shared_agent.status()["workers"][0]["pid"] not in {0, first})
    assert not psutil.pid_exists(first)


def test_a_worker_holds_only_its_own_queue(shared_agent: Agent) -> None:
    """The standby worker holds all queues, until it serves one."""

    def netlink_sockets(pid: int) -> int:
        inodes = {line.split()[9] for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]}
        links = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        return sum(link.removeprefix("socket:[").removesuffix("]") in inodes for link in links)

    shared_agent.wait_until("there is a standby worker", lambda: len(shared_agent.forks()) == 4)
    workers = [worker["pid"] for worker in shared_agent.status()["workers"]]
    assert [netlink_sockets(pid) for pid in workers] == [1, 1]
    waiting = waiting_of(shared_agent)
    assert netlink_sockets(waiting) == 1
    (standby,) = {process.pid for process in shared_agent.forks()} - {*workers, waiting}
    assert netlink_sockets(standby) == 3
    shared_agent.kill(workers[0])
    shared_agent.wait_until("the standby worker serves", lambda: shared_agent.status()["workers"][0]["pid"] == standby)
    assert netlink_sockets(standby) == 1


@pytest.mark.parametrize("flags", [(), ("--v=2",)], ids=["plain", "packet log"])
def test_sandboxed_workers_load_snapshots_count_log_and_drain(box: Box, folder: Path, flags: tuple[str, ...]) -> None:
    """With more than one page of counters and many snapshots: everything for which a worker might open a file."""
    with Agent(box, folder, "--fail-open=false", "--workers=2", "--verdict-cache=off", *flags) as agent:
        workers = [worker["pid"] for worker in agent.status()["workers"]]
        for app in ("stranger", "friend") * 3:
            before = agent.status()
            admit(folder, app)
            agent.wait_until_acknowledged(before)
        assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))
        agent.wait_until(
            "packets are counted", lambda: 'packet_count{family="IPv6",protocol="UDP",verdict="drop"}' in agent.metrics()
        )
        assert [worker["pid"] for worker in agent.status()["workers"]] == workers
        assert agent.stop() == 0
    log = agent.log.read_text()
    assert "Traceback" not in log
    assert "Operation not permitted" not in log


ASK = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b"GET /status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
print(connection.makefile("rb").readline().decode().split()[1])
"""


def test_only_root_gets_the_status_also_when_permissions_are_loose(shared_agent: Agent) -> None:
    """The directory of the test is open to all users too, so that the agent must refuse."""
    path = shared_agent.run_dir / "status.sock"
    for target, mode in ((path, 0o666), (shared_agent.run_dir, 0o755), (shared_agent.run_dir.parent, 0o755)):
        target.chmod(mode)
    answers = {
        user: subprocess.run(
            ["setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-c", ASK, str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        ).stdout.strip()
        for user in (0, 65534)
    }
    assert answers == {0: "200", 65534: "403"}
    assert "status request from user 65534 rejected" in shared_agent.log.read_text()
