"""What a worker cannot do, and that it works all the same."""

import subprocess
import sys

from pathlib import Path

import pytest

from tests.process.conftest import admit, assert_admitted
from tests.support.agent import Agent
from tests.support.box import Box

NET_ADMIN = 1 << 12

TRY = """
import os, socket, sys
from netpolq_worker.confinement import Confinement
confinement = Confinement()
assert confinement.has_filter
table, (ours, theirs) = open("/proc/self/status", "rb", buffering=0), socket.socketpair()
confinement.apply()
def refused(what, call, *arguments):
    try:
        call(*arguments)
    except PermissionError:
        return
    sys.exit(f"{what} was not refused")
refused("open", open, "/etc/passwd")
refused("create", os.open, "/tmp/npq-created", os.O_CREAT | os.O_WRONLY)
refused("stat", os.stat, "/etc/passwd")
refused("list", os.listdir, "/")
refused("unlink", os.unlink, "/tmp/npq-created")
refused("socket", socket.socket)
refused("netlink", socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 12)
refused("connect", ours.connect, "/x")
refused("bind", ours.bind, "/x")
refused("fork", os.fork)
refused("exec", os.execv, sys.executable, [sys.executable])
refused("kill", os.kill, os.getppid(), 0)
refused("memfd", os.memfd_create, "x")
refused("mount namespace", os.chroot, "/")
refused("user", os.setuid, 1)
ours.send(b"x")
assert theirs.recv(1) == b"x"
status = dict(line.split(":", 1) for line in table.read().decode().splitlines())
print(*(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")), status["NoNewPrivs"].strip(), status["Seccomp"].strip())
"""


def test_a_confined_process_can_use_what_it_holds_and_reach_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(NET_ADMIN), str(NET_ADMIN), "0", "1", "2"]


def test_every_worker_is_confined_also_where_the_agent_is_root_of_a_whole_machine(closed_agent: Agent) -> None:
    """The spare one too, before it has anything to do."""

    def is_confined(pid: int) -> bool:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        capabilities = int(status["CapEff"], 16), int(status["CapPrm"], 16)
        return (*capabilities, status["NoNewPrivs"], status["Seccomp"]) == (NET_ADMIN, NET_ADMIN, "1", "2")

    assert all(is_confined(worker["pid"]) for worker in closed_agent.status()["workers"])
    closed_agent.wait_until("the spare is there", lambda: len(closed_agent.forks()) == 3)
    closed_agent.wait_until("and confined", lambda: all(is_confined(process.pid) for process in closed_agent.forks()))


def test_a_worker_holds_its_own_queue_alone(closed_agent: Agent) -> None:
    """The spare holds them all, until it serves one."""

    def netlink_sockets(pid: int) -> int:
        inodes = {line.split()[9] for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]}
        links = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        return sum(link.removeprefix("socket:[").removesuffix("]") in inodes for link in links)

    closed_agent.wait_until("the spare is there", lambda: len(closed_agent.forks()) == 3)
    workers = [worker["pid"] for worker in closed_agent.status()["workers"]]
    assert [netlink_sockets(pid) for pid in workers] == [1, 1]
    (spare,) = {process.pid for process in closed_agent.forks()} - set(workers)
    assert netlink_sockets(spare) == 2
    closed_agent.kill(workers[0])
    closed_agent.wait_until("the spare serves", lambda: closed_agent.status()["workers"][0]["pid"] == spare)
    assert netlink_sockets(spare) == 1


@pytest.mark.parametrize("flags", [(), ("--v=2",)], ids=["plain", "packet log"])
def test_confined_workers_take_up_snapshots_count_log_and_drain(box: Box, folder: Path, flags: tuple[str, ...]) -> None:
    """More than one page of counters, many snapshots, another supervisor: all that would open something if it could."""
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


def test_the_status_is_told_to_root_alone_even_where_permissions_were_loosened(closed_agent: Agent) -> None:
    """The folder of the test, too, is opened to all, so that it is the agent that refuses."""
    path = closed_agent.run_dir / "status.sock"
    for place, mode in ((path, 0o666), (closed_agent.run_dir, 0o755), (closed_agent.run_dir.parent, 0o755)):
        place.chmod(mode)
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
    assert "user 65534 asks for the status and is refused" in closed_agent.log.read_text()
