"""The core of the DNS reader: from packets and answers in force to orders, without I/O. Time is an argument, in monotonic nanoseconds.

Every packet ends in exactly one `Move`, to the queue of a worker, which evaluates it as any other: queries at once, responses at once or
when the supervisor has the addresses in force. What cannot be read, or is not trusted, goes on unlearned.

A response is read if it comes from a resolver and answers an open query of the pod: same ends, id and question.
"""

from collections.abc import Iterable
from typing import NamedTuple

from netpolq.enums import PacketMark
from netpolq.ipc.channel import Answer, AnswersInForce, Resolvers
from netpolq.names import DNS_PORT
from netpolq_worker.dns.held import HeldResponses, Move, Released
from netpolq_worker.dns.in_force import AddressesInForce, News
from netpolq_worker.dns.message import is_truncated, name_of, read_addresses, read_question
from netpolq_worker.dns.outcomes import MessageKind, Outcome, Tally
from netpolq_worker.dns.queries import OpenQueries
from netpolq_worker.dns.tcp import TcpConnections
from netpolq_worker.dns.transport import (
    Connection,
    Transport,
    connection_of_query,
    connection_of_response,
    read_flow,
    read_transport,
)
from netpolq_worker.worker.packet import UDP, Flow

Effect = Move | Answer


class _Pending(NamedTuple):
    """An answer that a packet waits for. `addresses` empty: it must not be remembered."""

    pod: bytes
    name: str
    addresses: tuple[tuple[bytes, int], ...]
    answered_ns: int


class Learner:
    """Reads DNS of pods. `first_number`: of the first answer, greater than any of an earlier process. `workers`: queue numbers.

    `tally`: what became of the messages.
    """

    def __init__(self, first_number: int, workers: range, mark_mask: int, min_ttl_s: int) -> None:
        self._next_number = first_number
        self._workers = workers
        self._mark_mask = mark_mask
        self._resolvers: frozenset[bytes] = frozenset()
        self._queries = OpenQueries()
        self._connections = TcpConnections()
        self._in_force = AddressesInForce(min_ttl_s)
        self._held = HeldResponses()
        self._pending: dict[int, _Pending] = {}
        self.tally = Tally()

    @property
    def due_ns(self) -> int | None:
        """When `expire` has something to do; None: never, as it is."""
        return self._held.due_ns

    # --- packets ------------------------------------------------------------------------------------------------------------------

    def receive(self, packet_id: int, mark: int, packet: bytes, now_ns: int) -> list[Effect]:
        """Take a packet."""
        flow = read_flow(packet)
        if flow is None:  # a worker drops it
            return [self.pass_on(packet_id, mark, packet, Outcome.MALFORMED)]
        transport = read_transport(packet, flow[2])
        if self._kind(flow, transport, now_ns) is MessageKind.QUERY:
            connection = connection_of_query(flow)
            for message in self._messages(connection, MessageKind.QUERY, transport):
                self._note(connection, message, now_ns)
            return [self._move(packet_id, mark, connection, MessageKind.QUERY)]
        connection = connection_of_response(flow)
        move = self._move(packet_id, mark, connection, MessageKind.RESPONSE)
        answers: list[Effect] = []
        number = 0
        for message in self._messages(connection, MessageKind.RESPONSE, transport):
            answer = self._learn(connection, message, now_ns)
            if answer is not None:
                answers.append(answer)
                if answer.number in self._pending:
                    number = answer.number
        lane = packet_id if connection.protocol == UDP else connection
        if not number and (self._held.is_full or not self._held.is_waiting(lane)):
            return [*answers, move]
        self._held.hold(lane, move, number, now_ns)
        self.tally.held += 1
        return answers

    def pass_on(self, packet_id: int, mark: int, packet: bytes, outcome: Outcome) -> Move:
        """The order for a packet whose message is not read. `outcome`: why."""
        flow = read_flow(packet)
        if flow is None:
            self.tally.count(MessageKind.QUERY, outcome)
            return Move(packet_id, self._workers[0], self._marked(mark, PacketMark.PENDING_ORIGINAL))
        is_response = flow[3] == DNS_PORT and flow[4] != DNS_PORT
        kind = MessageKind.RESPONSE if is_response else MessageKind.QUERY
        self.tally.count(kind, outcome)
        return self._move(packet_id, mark, connection_of_response(flow) if is_response else connection_of_query(flow), kind)

    def _kind(self, flow: Flow, transport: Transport | None, now_ns: int) -> MessageKind:
        """The direction of a packet, by its ports. If both are 53, it is a response only if it answers an open query.

        A pod could pass off a new connection as a response otherwise, and it would be evaluated in the wrong direction.
        """
        _source, _destination, _protocol, source_port, destination_port = flow
        if source_port != DNS_PORT:
            return MessageKind.QUERY
        if destination_port != DNS_PORT:
            return MessageKind.RESPONSE
        question = read_question(transport.payload, MessageKind.RESPONSE) if transport is not None else None
        if question is not None and self._queries.has(connection_of_response(flow), question, now_ns):
            return MessageKind.RESPONSE
        return MessageKind.QUERY

    def _messages(self, connection: Connection, kind: MessageKind, transport: Transport | None) -> Iterable[bytes]:
        """The messages that a packet completes."""
        if transport is None:
            self.tally.count(kind, Outcome.MALFORMED)
            return ()
        if connection.server not in self._resolvers:
            if transport.payload:
                self.tally.count(kind, Outcome.UNTRUSTED)
            return ()
        if connection.protocol == UDP:
            return (transport.payload,)
        messages = self._connections.receive(connection, kind, transport)
        if messages is None:
            if transport.payload:
                self.tally.count(kind, Outcome.UNFOLLOWED)
            return ()
        return messages

    def _note(self, connection: Connection, message: bytes, now_ns: int) -> None:
        question = read_question(message, MessageKind.QUERY)
        if question is not None:
            self._queries.note(connection, question, now_ns)
        self.tally.count(MessageKind.QUERY, Outcome.MALFORMED if question is None else Outcome.NOTED)

    def _learn(self, connection: Connection, message: bytes, now_ns: int) -> Answer | None:
        """Read a response. Returns what it tells; the packet must wait for that if its number is in `_pending` then."""
        read = self._read(connection, message, now_ns)
        if isinstance(read, Outcome):
            self.tally.count(MessageKind.RESPONSE, read)
            return None
        name, addresses = read
        news = self._in_force.news(connection.pod, name, addresses, now_ns)
        if news is News.NONE:
            self.tally.count(MessageKind.RESPONSE, Outcome.REPEATED)
            return None
        number = self._next_number
        self._next_number += 1
        if news is News.LONGER:
            self._in_force.add(connection.pod, name, addresses, now_ns)
            self.tally.count(MessageKind.RESPONSE, Outcome.REPEATED)
        elif self._held.is_full:
            self.tally.count(MessageKind.RESPONSE, Outcome.OVERFLOW)
        else:
            self._pending[number] = _Pending(connection.pod, name, addresses, now_ns)
        return Answer(number, connection.pod, name, addresses)

    def _read(self, connection: Connection, message: bytes, now_ns: int) -> tuple[str, tuple[tuple[bytes, int], ...]] | Outcome:
        """Name and addresses in a response, or why there are none."""
        question = read_question(message, MessageKind.RESPONSE)
        if question is None:
            return Outcome.MALFORMED
        if not self._queries.take(connection, question, now_ns):
            return Outcome.UNMATCHED
        if is_truncated(message):
            return Outcome.TRUNCATED
        try:
            addresses, has_more = read_addresses(message, question.name)
        except ValueError:
            return Outcome.MALFORMED
        self.tally.cut_answers += has_more
        name = name_of(question.name)
        return (name, addresses) if name is not None and addresses else Outcome.NOTHING_NEW

    # --- messages and time --------------------------------------------------------------------------------------------------------

    def set_resolvers(self, resolvers: Resolvers) -> None:
        """Trust these servers only. What was in force may not be any more."""
        self._resolvers = frozenset(resolvers.addresses)
        self._in_force.clear()
        self._pending = {number: pending._replace(addresses=()) for number, pending in self._pending.items()}

    def on_in_force(self, message: AnswersInForce, now_ns: int) -> list[Move]:
        """Let the responses go whose addresses are in force."""
        for pending in self._take_pending(message.number):
            self._in_force.add(*pending)
            self.tally.count(MessageKind.RESPONSE, Outcome.LEARNED)
        return self._moves(self._held.cover(message.number, now_ns))

    def on_unsent(self, answer: Answer, now_ns: int) -> list[Move]:
        """Let a response go whose answer could not be sent."""
        if self._pending.pop(answer.number, None) is not None:
            self.tally.count(MessageKind.RESPONSE, Outcome.LATE)
        return self._moves(self._held.release(answer.number, now_ns))

    def expire(self, now_ns: int) -> list[Move]:
        """Let the responses go that have waited for long enough."""
        released: list[Move] = []
        while (due_ns := self._held.due_ns) is not None and due_ns <= now_ns:
            released += self._late(self._held.first_number, now_ns)
        return released

    def release_all(self, now_ns: int) -> list[Move]:
        """Let all responses go."""
        return self._late(self._next_number, now_ns)

    def _late(self, number: int, now_ns: int) -> list[Move]:
        """Let go what waits for no greater number. Numbers rise with time."""
        for _pending in self._take_pending(number):
            self.tally.count(MessageKind.RESPONSE, Outcome.LATE)
        return self._moves(self._held.cover(number, now_ns))

    def _take_pending(self, number: int) -> list[_Pending]:
        covered = [pending for pending in self._pending if pending <= number]
        return [self._pending.pop(pending) for pending in covered]

    def _moves(self, released: Iterable[Released]) -> list[Move]:
        moves: list[Move] = []
        for move, waited_ns in released:
            self.tally.released += 1
            self.tally.delay_ns += waited_ns
            moves.append(move)
        return moves

    def _move(self, packet_id: int, mark: int, connection: Connection, kind: MessageKind) -> Move:
        """The packets of a connection go to one worker."""
        state = PacketMark.PENDING_ORIGINAL if kind is MessageKind.QUERY else PacketMark.PENDING_REPLY
        return Move(packet_id, self._workers[hash(connection) % len(self._workers)], self._marked(mark, state))

    def _marked(self, mark: int, state: PacketMark) -> int:
        lowest = self._mark_mask & -self._mark_mask
        return mark & ~self._mark_mask | state * lowest
