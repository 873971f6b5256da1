"""Start and stop of the agent: refusals, their messages, and what the processes share and hold."""

import signal
import socket
import subprocess
import sys

from pathlib import Path

import psutil
import pytest

from loadtest.testbed.agent import METRICS_PORT, Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode
from tests.process.conftest import NODE

HOLD_QUEUE = """
import netfilterqueue, sys, time
queue = netfilterqueue.NetfilterQueue()
queue.bind(int(sys.argv[1]), print)
print("bound", flush=True)
time.sleep(60)
"""


def run_to_the_end(box: Box, *flags: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an agent that is expected to end by itself."""
    return box.run(
        NODE.name,
        [*prefix, sys.executable, "-m", "netpolq", "run", "--run-dir", str(box.directory / "run"), *flags],
    )


def assert_one_line(done: subprocess.CompletedProcess[str], code: ExitCode, *parts: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("netpolq: error: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1, done.stderr
    for part in parts:
        assert part in errors[0]


def test_a_queue_that_another_program_holds_is_named(box: Box, folder: Path) -> None:
    holder = subprocess.Popen(
        ["ip", "netns", "exec", box.namespaces[NODE.name], sys.executable, "-c", HOLD_QUEUE, "101"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "bound\n"
        done = run_to_the_end(box, "--manifests", str(folder), "--workers=2")
        assert_one_line(done, ExitCode.QUEUE_TAKEN, "queue 101", "--nfqueue-id")
        assert box.run(NODE.name, ["nft", "list", "tables"]).stdout == "table inet conntrack_on\n"
    finally:
        holder.kill()
        holder.communicate()


def test_missing_privileges_are_reported(box: Box, folder: Path) -> None:
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    done = run_to_the_end(box, "--manifests", str(folder), prefix=without)
    assert_one_line(done, ExitCode.PRIVILEGES, "CAP_NET_ADMIN")


def test_a_limit_of_open_files_that_is_too_low_ends_the_start_before_a_queue_is_bound(box: Box, folder: Path) -> None:
    """A pool that runs out of descriptors later would miss changes until it has some again."""
    done = run_to_the_end(box, "--manifests", str(folder), "--workers=2", prefix=("prlimit", "--nofile=100:100"))
    assert_one_line(done, ExitCode.BOOT, "2 workers need 144 open files", "100")


def test_a_second_agent_in_the_namespace_ends_and_names_the_first(shared_agent: Agent) -> None:
    pool = psutil.Process(shared_agent.status()["workers"][0]["pid"]).parent()
    assert pool is not None
    done = run_to_the_end(
        shared_agent.box, "--manifests", str(shared_agent.manifests), "--nfqueue-id=200", "--metrics-bind-address=:9081"
    )
    assert_one_line(done, ExitCode.ALREADY_RUNNING, str(pool.pid))
    assert shared_agent.is_ready()


def test_a_metrics_address_in_use_ends_the_start(box: Box, folder: Path) -> None:
    with box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", METRICS_PORT))):
        done = run_to_the_end(box, "--manifests", str(folder), f"--metrics-bind-address=127.0.0.1:{METRICS_PORT}")
    assert_one_line(done, ExitCode.BOOT, "--metrics-bind-address", str(METRICS_PORT))


def test_a_run_dir_that_cannot_be_made_ends_the_start(box: Box, folder: Path) -> None:
    blocker = box.directory / "file"
    blocker.touch()
    done = run_to_the_end(box, "--manifests", str(folder), "--run-dir", str(blocker / "run"))
    assert_one_line(done, ExitCode.BOOT, "--run-dir", str(blocker / "run"))


def test_a_form_of_the_queue_rule_that_the_kernel_lacks_is_refused(box: Box, folder: Path) -> None:
    kernel_has_native = box.run(
        NODE.name, ["nft", "--check", "add table inet t; add chain inet t c; add rule inet t c queue num 7"]
    )
    done = (
        run_to_the_end(box, "--manifests", str(folder), "--dataplane=native")
        if kernel_has_native.returncode
        else run_to_the_end(box, "--manifests", str(folder), "--dataplane=neither")
    )
    assert_one_line(done, ExitCode.KERNEL if kernel_has_native.returncode else ExitCode.USAGE, "dataplane")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_agent_cleanly_and_the_log_says_what_stays(closed_agent: Agent, number: signal.Signals) -> None:
    pool = psutil.Process(closed_agent.status()["workers"][0]["pid"]).parent()
    assert pool is not None
    children = pool.children()
    closed_agent.kill(pool.pid, number)
    assert closed_agent.stop() == ExitCode.OK
    assert not [child for child in children if child.is_running()]
    log = closed_agent.log.read_text()
    assert "Traceback" not in log
    assert "netpolq cleanup" in log
    assert "dropped until an agent runs again" in log


def test_only_root_may_use_the_run_directory(shared_agent: Agent) -> None:
    assert shared_agent.run_dir.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o077 for path in shared_agent.run_dir.iterdir()}
    assert modes.keys() >= {"takeover.key", "status.sock"}
    assert set(modes.values()) == {0}, modes


def test_workers_share_the_pools_memory(shared_agent: Agent) -> None:
    """They are forked, not executed: the private memory of a worker is a fraction of the pool's memory."""
    worker = psutil.Process(shared_agent.status()["workers"][0]["pid"])
    pool = worker.parent()
    assert pool is not None
    assert worker.memory_full_info().uss < pool.memory_info().rss / 2


def test_workers_hold_no_descriptor_but_their_own(shared_agent: Agent) -> None:
    """Streams, the queue's socket under two numbers, the channel, the mapped snapshot, the memories of metrics and flows, the table of
    queues; to answer denied packets, a raw socket for each family and one to ask for their original destinations.
    """
    worker = shared_agent.status()["workers"][0]["pid"]
    targets = [str(entry.readlink()) for entry in Path(f"/proc/{worker}/fd").iterdir()]
    table = f"/proc/{worker}/net/netfilter/nfnetlink_queue"
    own = (
        "socket:",
        table,
        "/memfd:netpolq-snapshot",
        "/memfd:netpolq-counters",
        "/memfd:netpolq-flows",
        str(shared_agent.log),
        "/dev/null",
    )
    assert [target for target in targets if not target.startswith(own)] == []
    assert len({target for target in targets if target.startswith("socket:")}) == 2 + 3
