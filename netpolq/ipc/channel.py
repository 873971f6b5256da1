"""Messages between pool, supervisor and workers, and their encoding.

Carried by Unix SOCK_SEQPACKET socket pairs: one datagram is one message, and an empty one means that the peer process has ended. The
pool forwards `Publish` from the supervisor to every worker, and `Report`, `Refusal` and `Hints` from workers to the supervisor.

    supervisor → pool → worker   Publish (carries the descriptor of the sealed memfd)
    pool → worker                Serve, Drain
    worker → pool → supervisor   Report, Refusal, Hints
    standby worker → pool        Heartbeat
    supervisor → pool → worker   Logging
    supervisor → pool            Heartbeat, StandDown, RulesetInstalled
    pool → supervisor            Welcome, Counters (carries the descriptor of a worker's memory), Taken, StoodDown, PeerGone

Messages that a stalled peer has not read stay in memory, each `Publish` with a whole snapshot. So a sender has at most `MAX_UNREAD`
unread snapshots in flight. The supervisor waits for `Taken`, the pool for `Report` or `Heartbeat`.

Encoding: one byte of kind, then fixed fields in host byte order.
"""

import array
import os
import socket
import struct

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from netpolq.enums import Verdict

MAX_CHANGED = 1024
"""Maximum number of changed addresses in a `Publish`. With more, it means that all addresses changed."""

MAX_UNREAD = 4
"""Maximum number of snapshots sent to a process before it acknowledges one.

At 50 a second that covers a pause of 80 ms; in a large cluster it is 26 MiB."""

MAX_HINTS = 256
"""Maximum number of hints in one message."""

EVERY_PORT = 0
"""Port value of a hint for all ports. Port 0 itself is reserved (RFC 6335 section 6) and never hinted."""

_KEY_BYTES = 16
_MAX_MESSAGE_BYTES = 64 + MAX_CHANGED * _KEY_BYTES


class _Kind(IntEnum):
    PUBLISH = 1
    DRAIN = 2
    REPORT = 3
    REFUSAL = 4
    WELCOME = 5
    HINTS = 6
    STAND_DOWN = 7
    STOOD_DOWN = 8
    RULESET_INSTALLED = 9
    PEER_GONE = 10
    SERVE = 11
    HEARTBEAT = 12
    COUNTERS = 13
    TAKEN = 14
    FAILURE = 15
    LOGGING = 16


class Publish(NamedTuple):
    """A new snapshot. `changed`: 16-byte keys of addresses whose flows this version may evaluate differently than the previous
    one (this version minus 1). None: all addresses. A reader whose version is not the previous one must treat it as None.
    """

    version: int
    changed: tuple[bytes, ...] | None


class Serve(NamedTuple):
    """Assigns a slot to a standby worker. `inherited_packets`: evaluated in this slot by earlier workers.

    `suspect_orphans`: a packet that the previous worker had read may have crashed it.
    """

    slot: int
    inherited_packets: int
    suspect_orphans: bool


class Drain(NamedTuple):
    """Tells a worker to evaluate the queued packets and exit."""


class Report(NamedTuple):
    """State of a worker. `acked_version`: the snapshot in use (0: none yet). `packets`: evaluated in this slot since the pool started.

    `pid` 0: the slot has no process at present. `restarts`: number of replacements in the slot; set by the pool.
    """

    slot: int
    pid: int
    queue_num: int
    acked_version: int
    packets: int
    restarts: int


class Refusal(NamedTuple):
    """A worker could not load a snapshot and keeps the previous one."""

    slot: int
    version: int
    message: str


class Welcome(NamedTuple):
    """First message to a supervisor. `version`: the newest snapshot the pool has (0: none); the next one must be higher."""

    version: int
    supervisor_restarts: int


class Hint(NamedTuple):
    """A decision that a worker has repeated. Addresses are 16-byte keys; `port`: destination port, all in original direction.

    `EVERY_PORT`, only with a drop: all ports of the protocol.
    """

    source: bytes
    destination: bytes
    port: int
    protocol: int
    verdict: Verdict


class Hints(NamedTuple):
    """Decisions by the snapshot of this version, for the verdict cache in the kernel. `packed`: for `unpack_hints`."""

    version: int
    packed: bytes


class StandDown(NamedTuple):
    """The supervisor is about to change the ruleset: in a takeover, the other agent must stand down."""


class StoodDown(NamedTuple):
    """No other agent changes the ruleset."""


class RulesetInstalled(NamedTuple):
    """The ruleset is installed: in a takeover, the other agent may leave."""


class PeerGone(NamedTuple):
    """In a takeover, the other agent has left. It evaluated packets until now."""


class Failure(NamedTuple):
    """Why the supervisor ends: one line for the operator, cut to 1,024 bytes."""

    message: str


class Heartbeat(NamedTuple):
    """The event loop of a standby worker or the supervisor runs. `version`: the last snapshot received or sent."""

    version: int


class Logging(NamedTuple):
    """New log settings. `verbosity`: as in `--v`, 0 to 255; `denied`: whether denied packets are logged (`--log-denied`)."""

    verbosity: int
    denied: bool


class Counters(NamedTuple):
    """The counter memory of a worker; carries its descriptor."""

    metrics_file_id: int


class Taken(NamedTuple):
    """The pool has read a snapshot. `problem` not empty: the pool refused it, and everything must be published again."""

    version: int
    problem: str


_Empty = Drain | StandDown | StoodDown | RulesetInstalled | PeerGone
Message = Publish | Serve | Report | Refusal | Welcome | Hints | Heartbeat | Counters | Taken | Failure | Logging | _Empty

_EMPTY: dict[int, _Empty] = {
    _Kind.DRAIN: Drain(),
    _Kind.STAND_DOWN: StandDown(),
    _Kind.STOOD_DOWN: StoodDown(),
    _Kind.RULESET_INSTALLED: RulesetInstalled(),
    _Kind.PEER_GONE: PeerGone(),
}
"""Messages without fields."""

_EMPTY_KINDS = {type(message): kind for kind, message in _EMPTY.items()}

_PUBLISH = struct.Struct("=BQi")
_SERVE = struct.Struct("=BIQ?")
_REPORT = struct.Struct("=BIIIQQI")
_REFUSAL = struct.Struct("=BIQ")
_WELCOME = struct.Struct("=BQI")
_HEARTBEAT = struct.Struct("=BQ")
_COUNTERS = struct.Struct("=BI")
_TAKEN = struct.Struct("=BQ")
_MAX_TEXT_BYTES = 1024
_LOGGING = struct.Struct("=BB?")
_HINTS = struct.Struct("=BQ")
_HINT = struct.Struct("=16s16sHBB")


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    match message:
        case Publish(version, changed):
            count = -1 if changed is None else len(changed)
            return _PUBLISH.pack(_Kind.PUBLISH, version, count) + b"".join(changed or ())
        case Serve():
            return _SERVE.pack(_Kind.SERVE, *message)
        case Report():
            return _REPORT.pack(_Kind.REPORT, *message)
        case Refusal(slot, version, text):
            return _REFUSAL.pack(_Kind.REFUSAL, slot, version) + text.encode()[:_MAX_TEXT_BYTES]
        case Taken(version, text):
            return _TAKEN.pack(_Kind.TAKEN, version) + text.encode()[:_MAX_TEXT_BYTES]
        case Heartbeat():
            return _HEARTBEAT.pack(_Kind.HEARTBEAT, *message)
        case Counters():
            return _COUNTERS.pack(_Kind.COUNTERS, *message)
        case Failure(text):
            return bytes([_Kind.FAILURE]) + text.encode(errors="replace")[:_MAX_TEXT_BYTES]
        case Welcome():
            return _WELCOME.pack(_Kind.WELCOME, *message)
        case Logging():
            return _LOGGING.pack(_Kind.LOGGING, *message)
        case Hints(version, packed):
            return _HINTS.pack(_Kind.HINTS, version) + packed
        case _:
            return bytes([_EMPTY_KINDS[type(message)]])


def decode(data: bytes) -> Message:
    """The message that the bytes encode. Raises `ValueError` for bytes that `encode` never returns."""
    try:
        match _Kind(data[0]):
            case _Kind.PUBLISH:
                _kind, version, count = _PUBLISH.unpack_from(data)
                keys = data[_PUBLISH.size :]
                if count < -1 or len(keys) != max(count, 0) * _KEY_BYTES:
                    raise ValueError(f"{len(keys)} bytes of addresses, {count} announced")
                changed = tuple(keys[start : start + _KEY_BYTES] for start in range(0, len(keys), _KEY_BYTES))
                return Publish(version, None if count < 0 else changed)
            case _Kind.SERVE:
                return Serve(*_SERVE.unpack(data)[1:])
            case _Kind.REPORT:
                return Report(*_REPORT.unpack(data)[1:])
            case _Kind.REFUSAL:
                _kind, slot, version = _REFUSAL.unpack_from(data)
                return Refusal(slot, version, data[_REFUSAL.size :].decode(errors="replace"))
            case _Kind.TAKEN:
                _kind, version = _TAKEN.unpack_from(data)
                return Taken(version, data[_TAKEN.size :].decode(errors="replace"))
            case _Kind.HEARTBEAT:
                return Heartbeat(*_HEARTBEAT.unpack(data)[1:])
            case _Kind.COUNTERS:
                return Counters(*_COUNTERS.unpack(data)[1:])
            case _Kind.FAILURE:
                return Failure(data[1:].decode(errors="replace"))
            case _Kind.WELCOME:
                return Welcome(*_WELCOME.unpack(data)[1:])
            case _Kind.LOGGING:
                return Logging(*_LOGGING.unpack(data)[1:])
            case _Kind.HINTS:
                _kind, version = _HINTS.unpack_from(data)
                if len(data) > _HINTS.size + MAX_HINTS * _HINT.size:
                    raise ValueError(f"{len(data)} bytes are more than {MAX_HINTS} hints")
                return Hints(version, data[_HINTS.size :])
            case kind:
                if len(data) != 1:
                    raise ValueError(f"{len(data) - 1} bytes after a message without fields")
                return _EMPTY[kind]
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a message: {error}") from error


def pack_hints(version: int, hints: Iterable[Hint]) -> Hints:
    """A message with at most `MAX_HINTS` hints."""
    return Hints(version, b"".join(_HINT.pack(*hint) for hint in hints))


def unpack_hints(message: Hints) -> Iterator[Hint]:
    """The hints in a message. Raises `ValueError` for bytes that `pack_hints` never returns."""
    try:
        for source, destination, port, protocol, verdict in _HINT.iter_unpack(message.packed):
            yield Hint(source, destination, port, protocol, Verdict(verdict))
    except struct.error as error:
        raise ValueError(f"{len(message.packed)} bytes are not a whole number of hints") from error


class Channel:
    """One end of a channel. Never blocks in `receive` and `send`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple["Channel", socket.socket]:
        """A connected pair: our end, and a plain inheritable socket for the other process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send a message. Returns False if nothing was sent: the peer is gone or does not read, or the kernel
        has no memory, or too many descriptors in flight (ETOOMANYREFS in unix(7)).
        """
        try:
            if descriptors:
                self._socket.sendmsg([encode(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
            else:
                self._socket.send(encode(message))  # workers may not call sendmsg(2)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, int | None] | None:
        """The next message and the descriptor sent with it, which the caller then owns, or None without a message.

        If the process has no free descriptor, the message arrives without its descriptor (MSG_CTRUNC in recvmsg(2)).

        Raises `EOFError` when the peer is gone and `ValueError` for a message that cannot be read.
        """
        descriptors = array.array("i")
        try:
            data, ancillary, _flags, _address = self._socket.recvmsg(_MAX_MESSAGE_BYTES, socket.CMSG_SPACE(descriptors.itemsize))
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise EOFError from error
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
        if not data:
            raise EOFError
        try:
            return decode(data), descriptors[0] if descriptors else None
        except ValueError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def close(self) -> None:
        """Close this end; the peer's `receive` then raises `EOFError`."""
        self._socket.close()
