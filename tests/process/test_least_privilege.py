"""The agent as the shipped DaemonSet starts it: process 1 of its own PID namespace, one capability, a read-only root."""

import shlex
import sys

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

import psutil
import pytest
import yaml

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import CHECKOUT, Box
from loadtest.testbed.probe import Probe
from tests.process.conftest import FRIEND, SERVER, STRANGER

DAEMON_SET = CHECKOUT / "deploy/kustomize/base/daemonset.yaml"
NET_ADMIN = 1 << 12  # linux/capability.h

# Makes every file system read-only for the agent, except the run directory and those of the kernel, which no mount flag protects.
# A mount that is listed may be gone: a process that removes its mount point, such as a network namespace, detaches it everywhere.
_CONFINE = """
set -eu
mkdir -p "$RUN_DIR"
mount --bind "$RUN_DIR" "$RUN_DIR"
while read -r _ where kind _; do
    case "$where:$kind" in
        "$RUN_DIR":* | *:proc | *:sysfs | *:cgroup* | *:devpts | *:mqueue | *:securityfs | *:bpf | *:tracefs | *:debugfs) ;;
        *) mount -o remount,bind,ro "$where" 2>/dev/null || ! mountpoint --quiet "$where" ;;
    esac
done < /proc/mounts
exec setpriv --no-new-privs --inh-caps=-all --bounding-set="$BOUNDING_SET" -- "$@"
"""


class SecurityContext(TypedDict):
    capabilities: dict[str, list[str]]
    privileged: bool
    allowPrivilegeEscalation: bool
    readOnlyRootFilesystem: bool
    runAsUser: int


class Credentials(NamedTuple):
    """Credentials of a process, from /proc. Capability sets are bit masks."""

    effective: int
    permitted: int
    bounding: int
    no_new_privs: bool


@cache
def shipped() -> SecurityContext:
    body = yaml.safe_load(DAEMON_SET.read_text(encoding="utf-8"))
    return cast("SecurityContext", body["spec"]["template"]["spec"]["containers"][0]["securityContext"])


def confining(argv: Sequence[str], run_dir: Path, capabilities: Sequence[str]) -> list[str]:
    """The command under a bounding set of capabilities, unable to gain others, with one writable directory."""
    bounding_set = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    return [
        *("env", f"RUN_DIR={run_dir}", f"BOUNDING_SET={bounding_set}", "PYTHONDONTWRITEBYTECODE=1"),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("bash", "-c", _CONFINE, "confine", *argv),
    ]


class Confined(Agent):
    """An agent with the shipped privileges."""

    def __init__(self, box: Box, manifests: Path, *flags: str, capabilities: Sequence[str]) -> None:
        super().__init__(box, manifests, *flags)
        self._argv = confining(self._argv, self.run_dir, capabilities)

    @property
    def pool(self) -> psutil.Process:
        """The pool: process 1 of its namespace, and the only child of the program that created it."""
        assert self._process is not None
        (pool,) = psutil.Process(self._process.pid).children()
        return pool

    def stop(self) -> int:
        """Terminate the pool. Its parent passes the exit code on."""
        assert self._process is not None
        if self._process.poll() is None:
            self.pool.terminate()
        return self._process.wait(20)

    def credentials(self) -> dict[int, Credentials]:
        """Credentials of each process of the agent, by pid."""
        found = {}
        for process in (self.pool, *self.pool.children(recursive=True)):
            rows = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines())
            effective, permitted, bounding = (int(rows[name], 16) for name in ("CapEff", "CapPrm", "CapBnd"))
            found[process.pid] = Credentials(effective, permitted, bounding, rows["NoNewPrivs"] == "1")
        return found


@pytest.fixture
def confined(box: Box, folder: Path) -> Iterator[Confined]:
    flags = ("--fail-open=false", "--workers=2", "--strict-mode=false")
    agent = Confined(box, folder, *flags, capabilities=shipped()["capabilities"]["add"])
    with agent:
        yield agent


def reached(box: Box, protocol: str = "TCP") -> list[bool]:
    """Whether the friend and the stranger get through, over IPv4 and over IPv6."""
    probes = [
        Probe(client.name, box.address(SERVER.name, family), protocol, 80) for family in (4, 6) for client in (FRIEND, STRANGER)
    ]
    return [result.reached for result in box.probe(probes)]


def test_the_shipped_container_has_one_capability_and_cannot_gain_others() -> None:
    context = shipped()
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert not context["privileged"]
    assert not context["allowPrivilegeEscalation"]
    assert context["readOnlyRootFilesystem"]
    assert context["runAsUser"] == 0


def test_the_shipped_privileges_suffice_to_enforce_and_to_replace_killed_workers(box: Box, confined: Confined) -> None:
    assert reached(box) == [True, False, True, False]
    assert reached(box, "UDP") == [True, False, True, False]
    confined.wait_until("there is a standby worker", lambda: len(confined.forks()) == 4)
    killed = confined.forks()
    for worker in killed:
        worker.kill()
    confined.wait_until("all workers are back", lambda: len(set(confined.forks()) - set(killed)) == 4 and confined.is_ready())
    assert reached(box) == [True, False, True, False]
    assert "nfqueue_queue_total{" in confined.metrics(), "the kernel's statistics of the queues must be readable too"


def test_no_process_of_the_agent_has_more_than_the_shipped_capability(confined: Confined) -> None:
    confined.wait_until("there is a standby worker", lambda: len(confined.forks()) == 4)
    credentials = confined.credentials()
    assert len(credentials) == 6, "pool, supervisor, two workers, waiting process, standby worker"
    assert set(credentials.values()) == {Credentials(NET_ADMIN, NET_ADMIN, NET_ADMIN, no_new_privs=True)}


def test_the_agent_can_write_only_to_its_run_directory(confined: Confined) -> None:
    """The test, which has all privileges, writes through the agent's own mounts."""
    root = Path(f"/proc/{confined.pool.pid}/root")
    for folder in ("/", "/tmp", "/run", "/dev/shm", str(CHECKOUT), str(confined.manifests)):  # noqa: S108  # to show that it cannot be written
        if (root / folder.lstrip("/")).is_dir():
            with pytest.raises(OSError, match="Read-only file system"):
                (root / folder.lstrip("/") / "npq-written").touch()
    (root / str(confined.run_dir).lstrip("/") / "npq-written").touch()
    assert (confined.run_dir / "npq-written").exists()


def test_the_pool_can_be_process_1_without_an_init_program(box: Box, confined: Confined) -> None:
    """It reaps orphans and ends on SIGTERM, which the kernel does not deliver to a process 1 without a handler."""
    confined.wait_until("there is a standby worker", lambda: len(confined.forks()) == 4)
    pool = confined.pool
    own = set(pool.children())
    orphan = box.popen(
        box.node.name,
        ["nsenter", f"--target={pool.pid}", "--pid", "--", "sh", "-c", f"{shlex.join(['sleep', '2'])} & exit"],
        log=box.directory / "orphan.log",
    )
    assert orphan.wait(20) == 0
    orphans = set(pool.children()) - own
    assert len(orphans) == 1, "the pool is not the parent of the orphan"
    confined.wait_until("the orphan is reaped", lambda: set(pool.children()) == own)
    assert confined.stop() == 0
    assert reached(box) == [False] * 4, "the rules stay, and they are closed"


def test_the_shipped_privileges_suffice_to_clean_up(box: Box, confined: Confined) -> None:
    """As in the shipped cleanup DaemonSet, which has no run directory."""
    assert confined.stop() == 0
    argv = [sys.executable, "-m", "netpolq", "cleanup", "--run-dir", str(box.directory / "absent")]
    done = box.run(box.node.name, confining(argv, box.directory / "unused", shipped()["capabilities"]["add"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed nftables table inet netpolq" in done.stdout
    assert reached(box) == [True] * 4


@pytest.mark.parametrize("capabilities", [(), ("net_raw", "sys_admin", "net_bind_service")])
def test_without_the_capability_the_agent_says_which_one_is_missing(
    box: Box, folder: Path, capabilities: tuple[str, ...]
) -> None:
    """No other capability replaces CAP_NET_ADMIN."""
    agent = Confined(box, folder, "--workers=1", "--strict-mode=false", capabilities=capabilities)
    with pytest.raises(RuntimeError, match=r"(?s)exit code 3:.*NET_ADMIN"):
        agent.start()
