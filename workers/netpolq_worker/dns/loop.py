"""The DNS reader's process: moves packets between the kernel's queues as `netpolq_worker.dns.learner` orders, and talks to the pool.

Packets that an earlier reader had read and not answered are put back into the DNS queue, where they get new ids, and go on without a look
at their messages: one of them may have ended that reader. So they pass a worker's evaluation, in either mode.
"""

import logging
import select
import time

from collections.abc import Iterable

from netpolq.ipc.channel import Answer, AnswersInForce, Channel, Drain, Heartbeat, Logging, Resolvers
from netpolq.logs import set_verbosity
from netpolq_worker.dns.learner import Effect, Learner
from netpolq_worker.dns.metrics import DnsMetrics
from netpolq_worker.dns.outcomes import Outcome
from netpolq_worker.worker.nfqueue import Packet, Queue

_HEARTBEAT_NS = 250_000_000
"""How often the reader writes its counters and sends a heartbeat. A killed reader loses what it has counted since."""

_HOUSEKEEPING_NS = 1_000_000
"""How long messages may wait under constant load, when the queue is never empty."""

_LINGER_NS = 2_000_000_000
"""How long a reader without resolvers goes on: packets may still come until the kernel's rules are changed."""

log = logging.getLogger("dns")


class DnsReader:
    """Serves the DNS queue until it receives `Drain`, has had no resolvers for a while, or the pool is gone."""

    def __init__(self, queue: Queue, channel: Channel, learner: Learner, metrics: DnsMetrics) -> None:
        self._queue = queue
        self._channel = channel
        self._learner = learner
        self._metrics = metrics
        self._orphans_possible = True
        self._orphan_ids = range(0)
        self._is_stopping = False
        self._linger_until_ns: int | None = None
        self._next_heartbeat_ns = 0
        self._next_housekeeping_ns = 0
        queue.open_statistics()

    def run(self) -> None:
        """Serve."""
        self._put_back_silent_orphans()
        poller = select.poll()
        poller.register(self._queue.fileno(), select.POLLIN)
        poller.register(self._channel.fileno(), select.POLLIN)
        while not self._is_stopping:
            self._housekeeping(time.monotonic_ns())
            poller.poll(self._timeout_ms(time.monotonic_ns()))
            self._queue.receive()
        self._queue.receive()
        self._perform(self._learner.release_all(time.monotonic_ns()))
        self._metrics.flush(self._learner.tally)

    def _timeout_ms(self, now_ns: int) -> int:
        if self._is_stopping:
            return 0
        dues_ns = [self._next_heartbeat_ns]
        if self._learner.due_ns is not None:
            dues_ns.append(self._learner.due_ns)
        return max(0, -((now_ns - min(dues_ns)) // 1_000_000))

    # --- packets ------------------------------------------------------------------------------------------------------------------

    def take(self, packet: Packet) -> None:
        """Take a packet from the queue. Does not raise."""
        packet_id, mark, payload = packet.id, packet.get_mark(), packet.get_payload()
        self._put_back_orphans(packet_id - 1)
        now_ns = time.monotonic_ns()
        try:
            if packet_id in self._orphan_ids:
                effects: Iterable[Effect] = [self._learner.pass_on(packet_id, mark, payload, Outcome.ORPHANED)]
            else:
                effects = self._learner.receive(packet_id, mark, payload, now_ns)
        except Exception:  # the packet must go on
            log.exception("a packet on queue %d could not be read", self._queue.queue_num)
            effects = [self._learner.pass_on(packet_id, mark, payload, Outcome.MALFORMED)]
        self._perform(effects)
        if now_ns >= self._next_housekeeping_ns:
            self._housekeeping(now_ns)

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, Answer):
                self._queue.requeue(*effect)
            elif not self._channel.send(effect):
                self._perform(self._learner.on_unsent(effect, time.monotonic_ns()))

    def _put_back_silent_orphans(self) -> None:
        """Put back orphans without a new packet to trigger it: if no packet waits to be read, all that were queued are orphans."""
        last_id = self._queue.last_id()
        if last_id and not self._queue.has_waiting():
            self._put_back_orphans(last_id)

    def _put_back_orphans(self, last_id: int) -> None:
        """Put back every packet up to an id. Ids rise in order of delivery, so other processes have read these.

        Which of the next packets they are is known by their new ids. Does nothing on the second call.
        """
        if self._orphans_possible:
            self._orphans_possible = False
            if last_id > 0:
                before = self._queue.last_id()
                self._queue.put_back_up_to(last_id)
                self._orphan_ids = range(before + 1, self._queue.last_id() + 1)

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def _housekeeping(self, now_ns: int) -> None:
        self._next_housekeeping_ns = now_ns + _HOUSEKEEPING_NS
        self._read_messages(now_ns)
        self._perform(self._learner.expire(now_ns))
        if now_ns >= self._next_heartbeat_ns:
            self._next_heartbeat_ns = now_ns + _HEARTBEAT_NS
            self._metrics.flush(self._learner.tally)
            self._channel.send(Heartbeat(0))
        if self._linger_until_ns is not None and now_ns >= self._linger_until_ns:
            self._is_stopping = True

    def _read_messages(self, now_ns: int) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                match received[0]:
                    case Resolvers() as resolvers:
                        self._learner.set_resolvers(resolvers)
                        self._linger_until_ns = None if resolvers.addresses else now_ns + _LINGER_NS
                    case AnswersInForce() as in_force:
                        self._perform(self._learner.on_in_force(in_force, now_ns))
                    case Logging() as wanted:
                        set_verbosity(wanted.verbosity)
                    case Drain():
                        self._is_stopping = True
                    case message:
                        log.error("DNS reader: unexpected message %r", message)
        except EOFError:
            self._is_stopping = True
        except ValueError as error:
            log.error("DNS reader: message ignored: %s", error)
