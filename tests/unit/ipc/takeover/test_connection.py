"""One end of a connection between two agents, and the choice of queues beside a running agent."""

import os
import socket

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netpolq.ipc.takeover import connection as takeover_connection
from netpolq.ipc.takeover import queues_beside, running_agent
from netpolq.ipc.takeover.connection import TakeoverConnection, acquire, adopt
from netpolq.ipc.takeover.messages import Message, Word


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    own = f"\0netpolq-test-{os.getpid()}-{tmp_path.name}"
    monkeypatch.setattr(takeover_connection, "_NAME", own)
    return own


@pytest.mark.parametrize("timeout_s", [0.0, 0.01])
def test_no_message_in_time_and_none_ever_again_are_told_apart(
    pair: tuple[socket.socket, socket.socket], timeout_s: float
) -> None:
    connection = TakeoverConnection(pair[0])
    connection.set_timeout(timeout_s)
    with pytest.raises(TimeoutError):
        connection.receive()
    pair[1].send(b"leave")
    pair[1].close()
    assert connection.receive() == (Message(Word.LEAVE), None)
    with pytest.raises(EOFError):
        connection.receive()


def test_the_last_messages_of_a_peer_that_has_not_read_ours_are_received(pair: tuple[socket.socket, socket.socket]) -> None:
    """The kernel reports such an end with ECONNRESET, before those messages."""
    connection = TakeoverConnection(pair[0], max_descriptors=1)
    connection.send(Message(Word.LEAVE))
    pair[1].send(b"standing-down")
    socket.send_fds(pair[1], [b"left"], [0])
    pair[1].close()
    assert connection.receive() == (Message(Word.STANDING_DOWN), None)
    message, descriptor = connection.receive()
    assert message == Message(Word.LEFT)
    assert descriptor is not None
    os.close(descriptor)
    with pytest.raises(EOFError):
        connection.receive()


@pytest.mark.parametrize(("room", "sent"), [(0, 1), (0, 3), (1, 1), (1, 3)])
def test_descriptors_without_room_are_closed(pair: tuple[socket.socket, socket.socket], room: int, sent: int) -> None:
    connection = TakeoverConnection(pair[0], max_descriptors=room)
    before = len(list(Path("/proc/self/fd").iterdir()))
    socket.send_fds(pair[1], [b"left"], [0] * sent)
    message, descriptor = connection.receive()
    assert message == Message(Word.LEFT)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + room
    assert (descriptor is not None) == bool(room)
    if descriptor is not None:
        os.close(descriptor)


def test_an_empty_message_with_a_descriptor_is_not_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    connection = TakeoverConnection(pair[0], max_descriptors=1)
    socket.send_fds(pair[1], [b""], [0])
    message, descriptor = connection.receive()
    assert message is None
    assert descriptor is not None
    os.close(descriptor)


def test_a_descriptor_that_is_no_socket_is_closed_and_no_lock() -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    assert adopt(descriptor) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_peer_that_is_gone_is_found_by_the_next_receive(pair: tuple[socket.socket, socket.socket]) -> None:
    connection = TakeoverConnection(pair[0])
    pair[1].close()
    connection.send(Message(Word.LEAVE))
    with pytest.raises(EOFError):
        connection.receive()


@pytest.mark.usefixtures("name")
def test_one_process_holds_the_lock_and_the_others_find_it() -> None:
    assert running_agent() is None
    lock = acquire()
    assert lock is not None
    with lock:
        assert acquire() is None
        assert running_agent() == os.getpid()
    assert running_agent() is None


@pytest.mark.parametrize(
    ("wanted", "greeting", "chosen"),
    [
        (range(100, 102), b"queues 100:101", range(102, 104)),
        (range(101, 103), b"queues 100:101", range(102, 104)),
        (range(102, 104), b"queues 100:101", range(102, 104)),
        (range(98, 100), b"queues 100:101", range(98, 100)),
        (range(65534, 65536), b"queues 65534:65535", range(65532, 65534)),
        (range(100, 102), b"queues", range(100, 102)),
        (range(100, 102), b"a word of a later version", range(100, 102)),
        (range(100, 102), b"refused", range(100, 102)),
        (range(100, 102), b"", range(100, 102)),
    ],
)
def test_a_replacement_serves_other_queues_than_the_running_agent(
    name: str, wanted: range, greeting: bytes, chosen: range
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as lock, ThreadPoolExecutor(max_workers=1) as thread:
        lock.settimeout(5.0)
        lock.bind(name)
        lock.listen()
        choosing = thread.submit(queues_beside, wanted)
        with lock.accept()[0] as end:
            if greeting:
                end.send(greeting)
        assert choosing.result() == chosen


@pytest.mark.usefixtures("name")
def test_without_a_running_agent_the_wanted_queues_are_served() -> None:
    assert queues_beside(range(100, 102)) == range(100, 102)
