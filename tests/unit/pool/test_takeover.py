"""The sockets of a takeover. The other end speaks literal bytes, as an agent of another version does."""

import os
import socket
import time

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netpolq.errors import AlreadyRunningError
from netpolq.ipc.takeover import connection as takeover_connection
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.takeover import AgentLock

OWN, OTHER = range(100, 102), range(200, 202)
KEY = b"0123456789abcdef0123456789abcdef"
POLL_S = 5.0
"""The limit of a wait for a message that has been sent."""


class Pool:
    """Records what the pool is told, and has one lock. `run`: handle messages until something is recorded."""

    def __init__(self, queues: range, key_path: Path, *, takeover: bool = False) -> None:
        self.told: list[str] = []
        self.events = EventLoop()
        self.lock = AgentLock(self, self.events, queues, key_path, takeover=takeover)
        self.lock.open()

    def run(self) -> list[str]:
        deadline_s = time.monotonic() + POLL_S
        while not self.told and time.monotonic() < deadline_s:
            self.events.poll(0.05)
            self.lock.maintain(time.monotonic())
        told, self.told = self.told, []
        return told

    def end(self) -> None:
        self.lock.stop()
        self.lock.close()

    def on_stood_down(self) -> None:
        self.told.append("stood down")

    def on_peer_gone(self) -> None:
        self.told.append("peer gone")

    def stand_down(self) -> None:
        self.told.append("stand down")

    def kill_supervisor(self) -> None:
        self.told.append("kill supervisor")

    def resume(self) -> None:
        self.told.append("resume")

    def leave(self) -> None:
        self.told.append("leave")

    def drain(self, after_s: float) -> None:
        self.told.append(f"drain after {after_s}")

    def on_lock_lost(self, reason: str) -> None:
        self.told.append(reason)


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A name for the lock of this test alone."""
    own = f"\0netpolq-test-{os.getpid()}-{tmp_path.name}"
    monkeypatch.setattr(takeover_connection, "_NAME", own)
    return own


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    path = tmp_path / "takeover.key"
    path.write_bytes(KEY)
    return path


@pytest.fixture(autouse=True)
def _no_descriptor_is_leaked() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


def descriptors() -> set[str]:
    """What the descriptors of this process refer to, except the selectors of event loops, which end with their objects."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:  # that of the listing
            continue
    return {one for one in found if "eventpoll" not in one}


def stranger(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(POLL_S)
    connection.connect(name)
    return connection


def listening(name: str) -> socket.socket:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lock.settimeout(POLL_S)
    lock.bind(name)
    lock.listen()
    return lock


# --- a replacement of another version -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leave", "waiting_queue"), [(b"leave 200:203", 202), (b"leave 200:201", None), (b"leave", None)])
def test_a_replacement_that_speaks_these_bytes_takes_over(
    name: str, key_path: Path, leave: bytes, waiting_queue: int | None
) -> None:
    """The last is what a version sends that has no waiting queue, the one before is of none that there is."""
    agent = Pool(OWN, key_path)
    key = key_path.read_bytes()
    assert key != KEY
    with stranger(name) as replacement:
        agent.events.poll(POLL_S)
        assert replacement.recv(64) == b"queues 100:101"
        replacement.send(b"key " + key)
        replacement.send(b"a word of a later version")
        replacement.send(b"stand-down " + key)
        assert agent.run() == ["stand down"]
        assert agent.lock.has_successor
        agent.lock.on_supervisor_exit()
        assert replacement.recv(64) == b"standing-down"
        replacement.send(b"stand-down " + key)  # its supervisor was restarted
        agent.events.poll(POLL_S)
        assert replacement.recv(64) == b"standing-down"
        replacement.send(leave)
        assert agent.run() == ["leave"]
        assert agent.lock.successor_waiting_queue == waiting_queue
        agent.end()
        assert agent.told == ["drain after 0.1"]
        assert agent.lock.owned_by_peer
        data, (descriptor,), _flags, _address = socket.recv_fds(replacement, 64, 2)
        assert data == b"left"
        with socket.socket(fileno=descriptor) as lock:
            assert lock.getsockname() == name.encode()
            assert lock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert replacement.recv(64) == b""


@pytest.mark.parametrize("stage", ["stand-down", "standing-down"])
def test_the_agent_resumes_when_its_successor_ends(name: str, key_path: Path, stage: str) -> None:
    agent = Pool(OWN, key_path)
    with stranger(name) as replacement:
        agent.events.poll(POLL_S)
        replacement.send(b"stand-down " + key_path.read_bytes())
        assert agent.run() == ["stand down"]
        if stage == "standing-down":
            agent.lock.on_supervisor_exit()
    assert agent.run() == ["resume"]
    assert not agent.lock.owned_by_peer
    agent.end()
    assert agent.told == ["drain after 0.0"]


def test_a_successor_that_breaks_the_protocol_is_disconnected_and_the_agent_resumes(name: str, key_path: Path) -> None:
    agent = Pool(OWN, key_path)
    with stranger(name) as replacement:
        agent.events.poll(POLL_S)
        replacement.send(b"stand-down " + key_path.read_bytes())
        replacement.send(b"leave")  # before the answer
        assert agent.run() == ["stand down"]
        assert agent.run() == ["resume"]
        assert replacement.recv(64) == b"queues 100:101"
        assert replacement.recv(64) == b""
    agent.end()


def test_descriptors_of_a_peer_and_wrong_keys_change_nothing(name: str, key_path: Path) -> None:
    agent = Pool(OWN, key_path)
    with stranger(name) as peer:
        agent.events.poll(POLL_S)
        assert peer.recv(64) == b"queues 100:101"
        for request in (b"stand-down", b"stand-down " + KEY, b"key \xff", b"key"):
            socket.send_fds(peer, [request], [0, 1])
            agent.events.poll(POLL_S)
            assert peer.recv(64) == b"refused"
        assert agent.told == []
        agent.end()
        assert peer.recv(64) == b""


# --- a running agent of another version ---------------------------------------------------------------------------------------------------


def replacement_of(lock: socket.socket, key_path: Path, *greeting: bytes, takeover: bool = True) -> tuple[Pool, socket.socket]:
    """A replacement that has received this greeting, and the running agent's end of its connection."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        starting = thread.submit(Pool, OTHER, key_path, takeover=takeover)
        end, _address = lock.accept()
        end.settimeout(POLL_S)
        try:
            for message in greeting:
                end.send(message)
            if not greeting:
                end.close()
            return starting.result(), end
        except BaseException:
            end.close()
            raise


def test_a_replacement_takes_over_from_an_agent_that_speaks_these_bytes(name: str, key_path: Path) -> None:
    lock = listening(name)
    replacement, agent = replacement_of(lock, key_path, b"a word of a later version", b"queues 100:101")
    assert agent.recv(64) == b"key " + KEY
    replacement.lock.request_stand_down()
    replacement.lock.request_stand_down()
    assert [agent.recv(64), agent.recv(64)] == [b"stand-down " + KEY] * 2
    assert replacement.told == []
    agent.send(b"standing-down")
    agent.send(b"standing-down")
    assert replacement.run() == ["stood down"]
    replacement.lock.request_leave()
    assert agent.recv(64) == b"leave 200:201"
    socket.send_fds(agent, [b"left"], [lock.fileno()])
    agent.close()
    lock.close()
    assert replacement.run() == ["stood down", "peer gone"]
    assert not replacement.lock.owned_by_peer
    with stranger(name) as third:
        replacement.events.poll(POLL_S)
        assert third.recv(64) == b"queues 200:201"
        assert key_path.read_bytes() != KEY
        replacement.end()


def ends(agent: socket.socket, _lock: socket.socket) -> None:
    agent.close()


def leaves_without_the_lock(agent: socket.socket, _lock: socket.socket) -> None:
    agent.send(b"left")
    agent.close()


def leaves_with_another_descriptor(agent: socket.socket, _lock: socket.socket) -> None:
    with Path("/dev/null").open() as other:
        socket.send_fds(agent, [b"left"], [other.fileno()])
    agent.close()


def leaves_with_a_connected_socket(agent: socket.socket, _lock: socket.socket) -> None:
    socket.send_fds(agent, [b"left"], [agent.fileno()])
    agent.close()


@pytest.mark.parametrize("how", [ends, leaves_without_the_lock, leaves_with_another_descriptor, leaves_with_a_connected_socket])
def test_a_replacement_that_gets_no_lock_acquires_it_by_its_name(
    name: str, key_path: Path, how: Callable[[socket.socket, socket.socket], None]
) -> None:
    lock = listening(name)
    replacement, agent = replacement_of(lock, key_path, b"queues 100:101")
    lock.close()
    how(agent, lock)
    assert replacement.run() == ["stood down", "peer gone"]
    with stranger(name) as third:
        replacement.events.poll(POLL_S)
        assert third.recv(64) == b"queues 200:201"
        replacement.end()


def test_a_replacement_waits_for_the_end_of_an_agent_that_leaves_without_the_lock(name: str, key_path: Path) -> None:
    """The name is not free before that: the agent would seem to be another one."""
    with listening(name) as lock:
        replacement, agent = replacement_of(lock, key_path, b"queues 100:101")
        agent.send(b"left")
        replacement.events.poll(POLL_S)
        assert replacement.told == []
    agent.close()
    assert replacement.run() == ["stood down", "peer gone"]
    replacement.end()


def test_descriptors_that_come_with_other_messages_are_closed(name: str, key_path: Path) -> None:
    with listening(name) as lock:
        replacement, agent = replacement_of(lock, key_path, b"queues 100:101")
        replacement.lock.request_stand_down()
        before = descriptors()
        for message in (b"a word of a later version", b"standing-down", b"standing-down"):
            socket.send_fds(agent, [message], [lock.fileno()])
            replacement.events.poll(POLL_S)
        assert descriptors() == before
        assert replacement.told == ["stood down"]
        replacement.end()
        agent.close()


def test_a_replacement_that_is_refused_gives_up(name: str, key_path: Path) -> None:
    with listening(name) as lock:
        replacement, agent = replacement_of(lock, key_path, b"queues 100:101")
        agent.send(b"refused")
        (reason,) = replacement.run()
        assert reason == f"pid {os.getpid()} rejected the takeover: --run-dir must be that of the running agent"
        assert [agent.recv(64), agent.recv(64)] == [b"key " + KEY, b""]
        assert replacement.lock.owned_by_peer
        replacement.end()
        agent.close()


def test_a_replacement_gives_up_when_another_one_has_the_lock(name: str, key_path: Path) -> None:
    with listening(name) as lock:  # the other process holds it already
        replacement, agent = replacement_of(lock, key_path, b"queues 100:101")
        agent.close()
        (reason,) = replacement.run()
        assert reason == f"another agent (pid {os.getpid()}) has become the agent of this network namespace meanwhile"
        replacement.end()


def test_a_replacement_gives_up_when_the_agent_breaks_the_protocol(name: str, key_path: Path) -> None:
    with listening(name) as lock:
        replacement, agent = replacement_of(lock, key_path, b"queues 100:101")
        socket.send_fds(agent, [b"standing-down"], [lock.fileno()])  # not asked for
        (reason,) = replacement.run()
        assert "does not follow the takeover protocol" in reason
        replacement.end()
        agent.close()


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        ((b"queues 199:200",), "serves queues 199:200: choose others with --nfqueue-id"),
        ((b"queues",), "does not support takeover"),
        ((b"left",), "does not support takeover"),
        ((b"a word of a later version",), "does not support takeover"),  # and nothing else
        ((), "does not support takeover"),
    ],
)
def test_a_start_fails_at_an_agent_that_does_not_greet_with_free_queues(
    name: str, key_path: Path, greeting: tuple[bytes, ...], reason: str
) -> None:
    with listening(name) as lock, pytest.raises(AlreadyRunningError, match=reason):
        replacement_of(lock, key_path, *greeting)


def test_a_start_without_takeover_fails_beside_a_running_agent(name: str, key_path: Path) -> None:
    with (
        listening(name) as lock,
        pytest.raises(AlreadyRunningError, match=rf"\(pid {os.getpid()}\); stop it first, or take over"),
    ):
        replacement_of(lock, key_path, takeover=False)
