"""The hold: traffic of pods is dropped from the start until the first policies are in force. With real packets."""

import http.client
import json
import socket
import sys
import threading
import time

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from loadtest.testbed.probe import Probe
from netpolq.errors import ExitCode
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.supervisor.hold import _read_kept
from tests.process.conftest import FRIEND, MODES, NODE, SERVER, STRANGER, assert_admitted
from tests.support.apiserver import PODS, ApiServer, NeverAnswer, ThreadedApiServer

RANGES = "10.71.1.0/24,fd71:1::/64"
NEWEST = b"\x01"
"""The last byte of a snapshot file with the newest version (`netpolq.snapshot.memfd`)."""
PORT = 99
FLOWS = 400
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: nowhere
clusters: [{name: nowhere, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: test, user: {token: none}}]
contexts: [{name: nowhere, context: {cluster: nowhere, user: test}}]
"""


def hold(box: Box, *arguments: str) -> None:
    done = box.run(NODE.name, [sys.executable, "-m", "netpolq", "hold", *arguments])
    assert done.returncode == ExitCode.OK, done.stderr


def is_held(box: Box) -> bool:
    return "netpolq_hold" in box.run(NODE.name, ["nft", "list", "tables"]).stdout


def reached(box: Box, clients: Sequence[Host]) -> set[str]:
    """The clients that reach the server over TCP, by either family."""
    probes = [Probe(client.name, SERVER.address(family), "TCP", 80) for client in clients for family in (4, 6)]
    return {probe.source for probe, result in zip(probes, box.probe(probes), strict=True) if result.reached}


class Stream:
    """Sends datagrams from a client to the server without a pause, each flow in turn, and counts those that arrive."""

    def __init__(self, box: Box, client: Host) -> None:
        self._target = (SERVER.address(4), PORT)
        self._flows = box.inside(client.name, lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)])
        self._server = box.inside(SERVER.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._server.bind(self._target)
        self._server.setblocking(False)
        self._ending = threading.Event()
        self._sender = threading.Thread(target=self._send)
        self.sent = 0

    def _send(self) -> None:
        while not self._ending.is_set():
            self._flows[self.sent % FLOWS].sendto(b"x", self._target)
            self.sent += 1
            self._ending.wait(0.0005)

    def __enter__(self) -> "Stream":
        self._sender.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ending.set()
        self._sender.join()
        for flow in (*self._flows, self._server):
            flow.close()

    def arrived(self) -> int:
        """Number of datagrams that have arrived since the last call."""
        count = 0
        try:
            while self._server.recv(16):
                count += 1
        except BlockingIOError:
            return count
        return count


@MODES
def test_no_denied_packet_passes_between_the_hold_and_the_rules(box: Box, folder: Path, mode: str) -> None:
    """Some two thousand new flows a second arrive during the whole start of an agent. In fail-open mode too."""
    hold(box, "--pod-cidrs", RANGES)
    agent = Agent(box, folder, f"--fail-open={mode}", "--workers=2")
    try:
        with Stream(box, STRANGER) as stream:
            agent.start()
            agent.wait_until("released", lambda: not is_held(box))
            enough = stream.sent + FLOWS
            agent.wait_until("more is sent", lambda: stream.sent > enough)
            assert stream.arrived() == 0
        assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))
    finally:
        agent.stop()
        agent.cleanup()


def test_a_hold_that_is_installed_while_an_agent_enforces_is_removed(box: Box, closed_agent: Agent) -> None:
    """A restarted unit of the service manager installs such a hold."""
    hold(box, "--pod-cidrs", RANGES, "--force")
    closed_agent.wait_until("released", lambda: not is_held(box))
    assert_admitted(box, "friend")


@contextmanager
def without_a_source(box: Box, *flags: str) -> Iterator[Agent]:
    """An agent whose API server does not answer, so that it never syncs; its HTTP server is up."""
    kubeconfig = box.directory / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    with never_synced(box, kubeconfig, *flags) as agent:
        yield agent


@contextmanager
def without_pods(box: Box) -> Iterator[ThreadedApiServer]:
    """An API server that does not answer the list of pods, so that an agent never syncs. Its kubeconfig is in the testbed's directory."""
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    with ThreadedApiServer(ApiServer(listener=listener)) as api:
        api.inject(NeverAnswer(resource=PODS, times=None))
        api.kubeconfig(box.directory / "kubeconfig")
        yield api


@contextmanager
def never_synced(box: Box, kubeconfig: Path, *flags: str) -> Iterator[Agent]:
    """An agent that does not finish its first sync; its HTTP server is up."""
    agent = Agent(box, None, "--kubeconfig", str(kubeconfig), "--workers=1", *flags)
    agent.launch()
    try:
        agent.wait_until("serving", lambda: is_serving(agent))
        yield agent
    finally:
        agent.stop()
        agent.cleanup()


def is_serving(agent: Agent) -> bool:
    """Whether the agent's status and its HTTP server answer."""
    with suppress(OSError, http.client.HTTPException):
        return agent.http("/healthz").code == http.HTTPStatus.OK and agent.status() is not None
    return False


def why_not_ready(agent: Agent) -> str:
    assert not agent.is_ready()
    return agent.http("/readyz").body


def wait_until_reported(agent: Agent, text: str) -> None:
    agent.wait_until(f"/readyz reports: {text}", lambda: text in why_not_ready(agent))


def test_a_first_start_that_never_syncs_fails_closed(box: Box, folder: Path) -> None:
    """The ranges of the setting are held, and log, status and readiness report it. The first agent that syncs removes the hold."""
    with without_a_source(box, "--fail-open=false", "--pod-cidrs", RANGES) as agent:
        assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}
        sentence = f"traffic of pods in {RANGES} is dropped until the first policies are in force"
        assert sentence in agent.log.read_text()
        assert sentence in why_not_ready(agent)
        assert agent.status()["dataplane"]["hold"] == sentence
        agent.stop()
        assert is_held(box)
        with Agent(box, folder, "--fail-open=false", "--workers=1") as synced:
            synced.wait_until("released", lambda: not is_held(box))
            assert_admitted(box, "friend", families=(4, 6))
            synced.wait_until("the status has no hold", lambda: synced.status()["dataplane"]["hold"] is None)


@pytest.mark.hold
def test_the_cni_configuration_names_the_ranges_to_hold(box: Box) -> None:
    conf = box.directory / "net.d"
    conf.mkdir()
    ranges = [[{"subnet": one}] for one in RANGES.split(",")]
    (conf / "10-net.conflist").write_text(json.dumps({"plugins": [{"type": "ptp", "ipam": {"ranges": ranges}}]}))
    with without_a_source(box, "--fail-open=false", "--cni-conf-dir", str(conf)) as agent:
        assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}
        assert RANGES in why_not_ready(agent)


@pytest.mark.hold
def test_the_node_object_names_the_ranges_to_hold(box: Box) -> None:
    """The list of pods never arrives, and neither setting nor CNI configuration names a range: the Node's `spec.podCIDRs` do.

    A controller writes them after the kubelet has registered the Node, so the agent asks again. An invalid range is logged, and not held.
    """
    flags = ("--fail-open=false", "--cni-conf-dir", str(box.directory / "none"))
    with without_pods(box) as api, never_synced(box, box.directory / "kubeconfig", *flags) as agent:
        wait_until_reported(agent, "names no podCIDRs")
        assert reached(box, (FRIEND, STRANGER)) == {FRIEND.name, STRANGER.name}
        v4, v6 = RANGES.split(",")
        api.do(lambda server: server.node_specs.update({NODE.name: {"podCIDR": v4, "podCIDRs": [v4, v6, "0.0.0.0/0"]}}))
        wait_until_reported(agent, f"traffic of pods in {RANGES} is dropped until the first policies are in force")
        assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}
        assert "spec.podCIDRs[2] '0.0.0.0/0'" in agent.log.read_text()
        api.do(lambda server: server.clear())
        api.do(lambda server: server.cut_connections())
        agent.wait_until("released", lambda: not is_held(box))
        assert agent.is_ready() or "no pod of the source" in why_not_ready(agent)


@pytest.mark.hold
def test_the_node_object_adds_to_the_cni_configuration(box: Box) -> None:
    """The CNI configuration names a range of one family, the Node one of the other: pods have addresses in both."""
    v4, v6 = RANGES.split(",")
    conf = box.directory / "net.d"
    conf.mkdir()
    (conf / "10-net.conf").write_text(json.dumps({"ipam": {"subnet": v4}}))
    with without_pods(box) as api:
        api.do(lambda server: server.node_specs.update({NODE.name: {"podCIDRs": [v6]}}))
        kubeconfig = box.directory / "kubeconfig"
        with never_synced(box, kubeconfig, "--fail-open=false", "--cni-conf-dir", str(conf)) as agent:
            wait_until_reported(agent, f"{RANGES} is dropped")
            assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}


@pytest.mark.hold
def test_the_node_object_does_not_add_to_the_ranges_of_the_setting(box: Box) -> None:
    """The agent holds only the ranges that the operator names."""
    v4, v6 = RANGES.split(",")
    with without_pods(box) as api:
        api.do(lambda server: server.node_specs.update({NODE.name: {"podCIDRs": [v6]}}))
        with never_synced(box, box.directory / "kubeconfig", "--fail-open=false", "--pod-cidrs", v4) as agent:
            api.until(lambda server: any(request.path.startswith("/api/v1/nodes/") for request in server.requests))
            box.nft("flush ruleset")
            agent.wait_until("held again", lambda: is_held(box))
            assert held_by_kernel(box) == {v4}
            assert v4 in why_not_ready(agent)


@pytest.mark.hold
def test_without_a_known_range_the_agent_reports_that_nothing_is_held(box: Box) -> None:
    missing = box.directory / "none"
    with without_a_source(box, "--fail-open=false", "--cni-conf-dir", str(missing)) as agent:
        assert reached(box, (FRIEND, STRANGER)) == {FRIEND.name, STRANGER.name}
        for text in (why_not_ready(agent), agent.log.read_text()):
            assert "nothing is held before the first sync" in text
            assert str(missing) in text
            assert "--pod-cidrs" in text


@pytest.mark.hold
def test_ranges_that_become_known_later_are_held(box: Box) -> None:
    """On the first boot of a node, the CNI plugin writes its configuration after the agent has started, and may add to it later.

    A held range stays held: pods that started before may have addresses in a range that is no longer named.
    """
    conf = box.directory / "net.d"
    with without_a_source(box, "--fail-open=false", "--cni-conf-dir", str(conf)) as agent:
        assert "nothing is held" in why_not_ready(agent)
        conf.mkdir()
        for name, family in (("10-a.conf", 4), ("20-b.conf", 6)):
            subnet = RANGES.split(",")[family == 6]
            (conf / "new").write_text(json.dumps({"ipam": {"subnet": subnet}}))
            (conf / "new").rename(conf / name)
            wait_until_reported(agent, f"{subnet} is dropped")
        assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}
        (conf / "10-a.conf").write_text(json.dumps({"ipam": {"subnet": "10.99.1.0/24"}}))
        wait_until_reported(agent, "10.99.1.0/24")
        assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}


@pytest.mark.hold
def test_the_agent_adds_its_ranges_to_the_hold_of_another_program(box: Box) -> None:
    """An init container has installed a hold. The table keeps its ranges, and the rules that an operator has added."""
    v4, v6 = RANGES.split(",")
    hold(box, "--pod-cidrs", f"10.98.0.0/16,{v4}")
    box.nft('add rule inet netpolq_hold forward accept comment "of an operator"')
    with without_a_source(box, "--fail-open=false", "--pod-cidrs", v6) as agent:
        wait_until_reported(agent, f"traffic of pods in {v4},10.98.0.0/16,{v6} is dropped")
        assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}
        table = box.run(NODE.name, ["nft", "list", "table", "inet", "netpolq_hold"]).stdout
        assert "10.98.0.0/16" in table
        assert "of an operator" in table


@pytest.mark.hold
def test_a_hold_that_covers_all_ranges_stays_as_it_is(box: Box) -> None:
    """The hold of the service manager's unit has the range of the whole cluster."""
    hold(box, "--pod-cidrs", "10.71.0.0/16,fd71::/16")
    before = held_by_kernel(box)
    with without_a_source(box, "--fail-open=false", "--pod-cidrs", RANGES) as agent:
        assert "dropped by the table inet netpolq_hold" in why_not_ready(agent)
        assert held_by_kernel(box) == before


def held_by_kernel(box: Box) -> set[str]:
    """The ranges in the sets of the hold, one element each."""
    listed = box.run(NODE.name, ["nft", "list", "table", "inet", "netpolq_hold"]).stdout.replace(",", " ").split()
    return {text for text in listed if "/" in text}


@pytest.mark.hold
def test_a_hold_that_another_program_removes_is_restored(box: Box) -> None:
    """The table, all elements of the sets, or one element."""
    v6 = RANGES.split(",")[1]
    with without_a_source(box, "--fail-open=false", "--pod-cidrs", RANGES) as agent:
        for script in (
            "flush ruleset",
            "flush set inet netpolq_hold pods_v4; flush set inet netpolq_hold pods_v6",
            f"delete element inet netpolq_hold pods_v6 {{ {v6} }}",
        ):
            box.nft(script)
            agent.wait_until("held", lambda: held_by_kernel(box) == set(RANGES.split(",")))
            assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}


@pytest.mark.hold
def test_a_first_start_that_fails_open_holds_nothing(box: Box) -> None:
    with without_a_source(box, "--fail-open=true", "--pod-cidrs", RANGES) as agent:
        assert reached(box, (FRIEND, STRANGER)) == {FRIEND.name, STRANGER.name}
        assert "hold" not in why_not_ready(agent)


@pytest.mark.parametrize("held", [pytest.param(False, marks=pytest.mark.hold), True], ids=["open", "held"])
def test_the_snapshot_file_is_enforced_without_a_sync(box: Box, folder: Path, held: bool) -> None:
    """Another program has removed the rules meanwhile. The policies of the file apply; a hold is removed, and none is installed."""
    with Agent(box, folder, "--fail-open=false", "--workers=1") as agent:
        agent.stop()
        box.nft("delete table inet netpolq")
        if held:
            hold(box, "--pod-cidrs", RANGES)
        with without_a_source(box, "--fail-open=false", "--pod-cidrs", RANGES) as again:
            again.wait_until("in force", lambda: again.status()["in_force_version"] > 0)
            again.wait_until("released", lambda: not is_held(box))
            assert_admitted(box, "friend", families=(4, 6))
            assert "first sync" in why_not_ready(again)


def test_a_snapshot_file_of_an_earlier_boot_does_not_end_the_hold(box: Box) -> None:
    """Its pods may have other addresses now: the agent enforces it, and holds the node's pods too."""
    run_dir = box.directory / "run"
    run_dir.mkdir(mode=0o700)
    (run_dir / "snapshot.bin").write_bytes(SnapshotBuilder().encoded(version=3, created_ns=1) + NEWEST)
    with without_a_source(box, "--fail-open=false", "--pod-cidrs", RANGES) as agent:
        agent.wait_until("in force", lambda: agent.status()["in_force_version"] == 3)
        assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}


@pytest.mark.hold
def test_the_rules_of_an_earlier_agent_need_no_hold(box: Box, folder: Path) -> None:
    """The rules stay, and workers without a snapshot drop every queued packet. Connections of pods that are not isolated pass."""
    with Agent(box, folder, "--fail-open=false", "--workers=1") as agent:
        agent.stop()
        (agent.run_dir / "snapshot.bin").unlink()
        with without_a_source(box, "--fail-open=false", "--pod-cidrs", RANGES):
            assert not is_held(box)
            assert reached(box, (NODE, FRIEND, STRANGER)) == {NODE.name}


def test_cleanup_removes_a_hold(box: Box) -> None:
    hold(box, "--pod-cidrs", RANGES)
    with without_a_source(box, "--fail-open=true") as agent:
        agent.stop()
        assert "nftables table inet netpolq_hold" in agent.cleanup()
    assert not is_held(box)


@pytest.mark.parametrize(
    ("age_s", "is_of_this_boot"), [(0.0, True), (1e9, False), (-3600.0, False)], ids=["now", "before", "future"]
)
def test_a_snapshot_file_of_an_earlier_boot_is_recognized(tmp_path: Path, age_s: float, is_of_this_boot: bool) -> None:
    """After a boot, the same pods have other addresses. A clock that is behind the time of the snapshot proves nothing."""
    path = tmp_path / "snapshot.bin"
    path.write_bytes(SnapshotBuilder().encoded(version=3, created_ns=time.time_ns() - int(age_s * 1e9)) + NEWEST)
    kept = _read_kept(path)
    assert kept is not None
    assert (kept.version, kept.is_of_this_boot) == (3, is_of_this_boot)
