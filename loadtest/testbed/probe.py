"""Probes of reachability by TCP, UDP, ICMP and SCTP, many at a time from any namespaces, in one process with one loop.

A denied packet is dropped, so a denied attempt ends with its timeout, or earlier if the caller can tell that nothing more will come. All
attempts wait at the same time.
"""

import errno
import math
import selectors
import socket
import struct
import time

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from loadtest.testbed import netns, sctp
from loadtest.testbed.echo import payload

TIMEOUT_S = 0.7
"""Less than the second after which TCP repeats a SYN: every attempt is one packet."""

_STEP_S = 0.01
_FIRST_IDENTIFIER = 10_000
_LAST_IDENTIFIER = 32_000  # below the ephemeral ports of the kernel
_TOKEN_BYTES = 8
_RECEIVE_BUFFER_BYTES = 1 << 21
_LINGER_OFF = struct.pack("ii", 1, 0)
_ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
_RAW = {
    ("ICMP", socket.AF_INET): socket.IPPROTO_ICMP,
    ("ICMP", socket.AF_INET6): socket.IPPROTO_ICMPV6,
    ("SCTP", socket.AF_INET): socket.IPPROTO_SCTP,
    ("SCTP", socket.AF_INET6): socket.IPPROTO_SCTP,
}


class Outcome(StrEnum):
    """REACHED: the answer arrived. REFUSED: the network or the peer sent an error. TIMEOUT: no answer."""

    REACHED = "reached"
    REFUSED = "refused"
    TIMEOUT = "timeout"


class Probe(NamedTuple):
    """One attempt. `source`: a name of the prober's namespaces; `protocol`: TCP, UDP, ICMP (ICMPv6 too) or SCTP.

    `port`: 0 for ICMP. `source_port`: for ICMP the identifier; 0: an unused one. `delay_s`: delay of the start.
    """

    source: str
    destination: str
    protocol: str
    port: int = 0
    source_port: int = 0
    delay_s: float = 0.0


class Result(NamedTuple):
    """The result of an attempt. `started_s`: `time.monotonic()` at its first packet; `elapsed_s`: until the outcome."""

    probe: Probe
    outcome: Outcome
    started_s: float
    elapsed_s: float

    @property
    def reached(self) -> bool:
        return self.outcome is Outcome.REACHED


class Prober:
    """Probes from a set of namespaces, given as name → network namespace."""

    def __init__(self, namespaces: Mapping[str, str]) -> None:
        self._namespaces = namespaces
        self._identifiers: dict[str, int] = {}

    def run(
        self, probes: Sequence[Probe], timeout_s: float = TIMEOUT_S, silence_s: Callable[[], float] | None = None
    ) -> list[Result]:
        """Run attempts at the same time. The results are in the order of the probes.

        `silence_s` returns for how long at least no answer must come until none can come any more, as far as it can tell at the moment;
        infinity while packets are under way. If it is given, attempts end before their timeout when that has passed since the last event.
        """
        numbered = [
            probe if probe.source_port else probe._replace(source_port=self._identifier(probe.source)) for probe in probes
        ]
        with _Round(timeout_s, silence_s) as round_:
            for source in {probe.source for probe in numbered}:
                own = [(number, probe) for number, probe in enumerate(numbered) if probe.source == source]
                netns.inside(self._namespaces[source], partial(round_.open, own))
            return round_.run()

    def _identifier(self, source: str) -> int:
        # Unique for minutes: conntrack would treat a second attempt as a part of the first.
        last = self._identifiers.get(source, _FIRST_IDENTIFIER)
        self._identifiers[source] = last + 1 if last < _LAST_IDENTIFIER else _FIRST_IDENTIFIER
        return last


class _Attempt:
    """An attempt under way."""

    def __init__(self, probe: Probe, connection: socket.socket) -> None:
        self.probe = probe
        self.socket = connection
        self.token = probe.source_port.to_bytes(_TOKEN_BYTES, "big")
        self.started_s = 0.0


class _Round:
    """The sockets and the loop of one call of `Prober.run`."""

    def __init__(self, timeout_s: float, silence_s: Callable[[], float] | None) -> None:
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._silent_since_s = 0.0
        self._silence_needed_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._attempts: dict[int, _Attempt] = {}
        self._raw: dict[tuple[str, str, int], socket.socket] = {}
        self._raw_attempts: dict[tuple[socket.socket, int], int] = {}
        self._results: dict[int, Result] = {}

    def __enter__(self) -> "_Round":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._selector.close()
        for connection in {*self._raw.values(), *(attempt.socket for attempt in self._attempts.values())}:
            connection.close()

    def open(self, probes: Sequence[tuple[int, Probe]]) -> None:
        """Create the sockets of the probes of the calling thread's namespace."""
        for number, probe in probes:
            family = socket.AF_INET6 if ":" in probe.destination else socket.AF_INET
            raw_protocol = _RAW.get((probe.protocol, family))
            if raw_protocol is not None:
                raw = self._raw_socket(probe, family, raw_protocol)
                self._attempts[number] = _Attempt(probe, raw)
                self._raw_attempts[raw, probe.source_port] = number
                continue
            stream = probe.protocol == "TCP"
            connection = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
            self._attempts[number] = _Attempt(probe, connection)
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if stream:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
            connection.bind(("", probe.source_port))

    def run(self) -> list[Result]:
        """Start each attempt when it is due and wait until all have an outcome."""
        began_s = time.monotonic()
        for raw in self._raw.values():
            self._selector.register(raw, selectors.EVENT_READ, partial(self._raw_answers, raw))
        # Attempts that start later end later: both lists are in order of time.
        due = sorted(self._attempts, key=lambda number: self._attempts[number].probe.delay_s)
        started: list[int] = []
        while len(self._results) < len(self._attempts):
            now_s = time.monotonic()
            while due and began_s + self._attempts[due[0]].probe.delay_s <= now_s:
                self._start(due[0])
                started.append(due.pop(0))
                self._poll(0.0)
            while started and (started[0] in self._results or self._deadline_s(started[0]) <= now_s):
                self._finish(started.pop(0), Outcome.TIMEOUT)
            next_s = [began_s + self._attempts[due[0]].probe.delay_s] if due else []
            next_s += [self._deadline_s(started[0])] if started else []
            if not due and self._silence_s is not None:
                if self._is_over(self._silence_s):
                    for number in started:
                        self._finish(number, Outcome.TIMEOUT)
                next_s.append(now_s + _STEP_S)
            if next_s:
                self._poll(max(0.0, min(next_s) - time.monotonic()))
        return [self._results[number] for number in sorted(self._results)]

    def _deadline_s(self, number: int) -> float:
        return self._attempts[number].started_s + self._timeout_s

    def _poll(self, wait_s: float) -> bool:
        """Wait for events, and serve them. Returns whether there were any."""
        events = self._selector.select(wait_s)
        for key, _events in events:
            key.data()
        if events:
            self._restart_silence()
        return bool(events)

    def _restart_silence(self) -> None:
        self._silent_since_s = time.monotonic()
        self._silence_needed_s = 0.0

    def _is_over(self, silence_s: Callable[[], float]) -> bool:
        """Whether nothing has come for so long that nothing more will. A slow moment prolongs the whole silence."""
        needed_s = silence_s()
        if needed_s == math.inf or self._poll(0.0):
            self._restart_silence()
            return False
        self._silence_needed_s = max(self._silence_needed_s, needed_s)
        return time.monotonic() - self._silent_since_s >= self._silence_needed_s

    def _raw_socket(self, probe: Probe, family: socket.AddressFamily, protocol: int) -> socket.socket:
        # One socket for all attempts of a namespace: every raw socket receives a copy of every packet.
        key = (probe.source, probe.protocol, family)
        if key not in self._raw:
            self._raw[key] = socket.socket(family, socket.SOCK_RAW, protocol)
            self._raw[key].setblocking(False)
            self._raw[key].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        return self._raw[key]

    def _start(self, number: int) -> None:
        attempt = self._attempts[number]
        self._restart_silence()
        attempt.started_s = time.monotonic()
        probe = attempt.probe
        try:
            match probe.protocol:
                case "TCP":
                    failure = attempt.socket.connect_ex((probe.destination, probe.port))
                    if failure not in {0, errno.EINPROGRESS}:
                        raise OSError(failure, "connect")
                    self._watch(attempt, selectors.EVENT_WRITE, partial(self._connected, number))
                case "UDP":
                    attempt.socket.connect((probe.destination, probe.port))
                    attempt.socket.send(attempt.token)
                    self._watch(attempt, selectors.EVENT_READ, partial(self._echoed, number))
                case "ICMP":
                    attempt.socket.sendto(_echo_request(attempt), (probe.destination, 0))
                case "SCTP":
                    init = sctp.Packet(probe.source_port, probe.port, 0, sctp.INIT, probe.source_port)
                    attempt.socket.sendto(sctp.build(init), (probe.destination, 0))
                case _:
                    raise ValueError(f"unknown protocol: {probe.protocol}")
        except OSError:
            self._finish(number, Outcome.REFUSED)

    def _watch(self, attempt: _Attempt, events: int, ready: Callable[[], None]) -> None:
        self._selector.register(attempt.socket, events, ready)

    def _connected(self, number: int) -> None:
        connection = self._attempts[number].socket
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._finish(number, Outcome.REFUSED)
            return
        # An established socket proves little about the peer: only an answer shows that the last packet of the handshake has arrived.
        try:
            connection.send(self._attempts[number].token)
        except OSError:
            self._finish(number, Outcome.REFUSED)
        else:
            self._selector.modify(connection, selectors.EVENT_READ, partial(self._echoed, number))

    def _echoed(self, number: int) -> None:
        attempt = self._attempts[number]
        try:
            data = attempt.socket.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._finish(number, Outcome.REACHED if data == attempt.token else Outcome.REFUSED)

    def _raw_answers(self, raw: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                with suppress(ConnectionError):
                    data, peer = raw.recvfrom(65536)
                    identifier = _answered(raw, payload(raw.family, data))
                    number = self._raw_attempts.get((raw, identifier)) if identifier is not None else None
                    if number is not None and peer[0] == self._attempts[number].probe.destination:
                        self._finish(number, Outcome.REACHED)

    def _finish(self, number: int, outcome: Outcome) -> None:
        if number in self._results:
            return
        attempt = self._attempts[number]
        self._results[number] = Result(attempt.probe, outcome, attempt.started_s, time.monotonic() - attempt.started_s)
        if attempt.socket not in self._raw.values():
            if attempt.socket in self._selector.get_map():
                self._selector.unregister(attempt.socket)
            attempt.socket.close()


def _echo_request(attempt: _Attempt) -> bytes:
    """Source: RFC 792 and RFC 4443 section 4.1; the kernel fills in the checksum of ICMPv6 (RFC 3542 section 3.1)."""
    header = struct.Struct("!BBHHH")
    kind = _ECHO_REQUEST[socket.AddressFamily(attempt.socket.family)]
    without = header.pack(kind, 0, 0, attempt.probe.source_port, 1) + attempt.token
    return header.pack(kind, 0, _internet_checksum(without), attempt.probe.source_port, 1) + attempt.token


def _internet_checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[start : start + 2], "big") for start in range(0, len(data), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _answered(raw: socket.socket, data: bytes) -> int | None:
    """The identifier of the attempt that a packet answers, or None if it answers none."""
    if raw.proto == socket.IPPROTO_SCTP:
        packet = sctp.parse(data)
        return packet.destination_port if packet is not None and packet.chunk == sctp.INIT_ACK else None
    if len(data) < 8 or data[0] != _ECHO_REPLY[socket.AddressFamily(raw.family)]:
        return None
    return int.from_bytes(data[4:6], "big")
