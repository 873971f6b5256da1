"""Variants under a load of packets of new flows, and the values of a flood."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from loadtest.lab import Flood, Lab, lab
from loadtest.measure import Sample
from loadtest.processes import others_notes
from loadtest.subjects import Subject
from loadtest.testbed.manifests import Body
from loadtest.traffic import Traffic
from loadtest.verdict import OTHERS_SHARE
from netpolq_worker.worker.nfqueue import QUEUE_PACKETS

_WARM_UP_PACKETS = 20_000
_NEVER_IDLE = 0.95
_FULL = QUEUE_PACKETS // 2
"""With at least this number of packets in the queue at the end of the load, the worker was the bottleneck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketVariant:
    """A subject in its own lab, and its load.

    `bodies`: the objects of the cluster; none for a subject that reads no policies. `cpus`: CPUs of the workers; empty: the scheduler
    chooses. `half_a_core`: a busy loop shares the first of these CPUs with them. `inline`: it has no queue and works on the CPU time of the
    generator. `all_inline`: so do all variants of its shape, which can be compared: the generator waits for each of them alike.
    """

    name: str
    subject: Subject
    traffic: Traffic
    bodies: Callable[[], Iterable[Body]] = tuple
    cpus: tuple[int, ...] = ()
    half_a_core: bool = False
    inline: bool = False
    all_inline: bool = False

    def open(self) -> AbstractContextManager["PacketRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["PacketRun"]:
        with lab(self.bodies(), self.subject, cpus=self.cpus, half_a_core=self.half_a_core) as opened:
            yield PacketRun(self, opened)


class PacketRun:
    """An open packet variant."""

    def __init__(self, variant: PacketVariant, opened: Lab) -> None:
        self._variant = variant
        self._lab = opened

    def measure(self, round_number: int) -> Sample:
        """Send one load. Before the first, send a short load that does not count."""
        if round_number <= 1:
            traffic = self._variant.traffic
            self._lab.flood(replace(traffic, packets=min(traffic.packets, _WARM_UP_PACKETS)))
        found = sample_of(self._lab.flood(self._variant.traffic), inline=self._variant.inline)
        return replace(found, generator_limited=False) if self._variant.all_inline else found


def sample_of(flood: Flood, *, inline: bool = False) -> Sample:
    """Return the sample of a flood. Raises `RuntimeError` if nothing at all was delivered.

    The variant was the bottleneck if two things hold. It did not take the whole load: packets were lost at a full queue or socket, or the
    queue was full when the last packet was sent. And its workers were never idle: they were on a CPU or waited for one. Otherwise the
    generator was the bottleneck. A loss alone proves nothing: a worker that was interrupted for some milliseconds loses packets and may be
    idle later. Nor does a busy worker: one that handles packets in batches is busy long before its limit, because its batches grow.
    """
    if not flood.delivered:
        raise RuntimeError(f"nothing was delivered of {flood.sent} packets; {flood.queue_dropped} dropped at the queue")
    lost = flood.queue_dropped + flood.user_dropped
    evaluated = sum(flood.queued) - flood.user_dropped
    values = {
        "delivered_per_s": flood.delivered / flood.elapsed_s,
        "offered_per_s": flood.sent / flood.offered_s,
        "lost_share": lost / flood.sent,
        "queue_dropped": float(flood.queue_dropped),
        "user_dropped": float(flood.user_dropped),
        "unjudged": float(flood.unjudged),
    }
    if evaluated:
        values["judged_per_s"] = evaluated / flood.elapsed_s
        values["accepted_share"] = flood.delivered / evaluated
    demand = 0.0
    if flood.cpu.workers and evaluated:
        running_s = sum(time.running_ns for time in flood.cpu.workers) / 1e9
        waiting_s = sum(time.waiting_ns for time in flood.cpu.workers) / 1e9
        demand = (running_s + waiting_s) / len(flood.cpu.workers) / flood.elapsed_s
        values["worker_cpu_us_per_packet"] = running_s * 1e6 / evaluated
        values["kernel_thread_us_per_packet"] = flood.cpu.kernel_ns / 1000 / evaluated
        values["worker_cpu_share"] = running_s / flood.elapsed_s
        values["worker_ready_share"] = min(1.0, demand)
    if len(flood.queued) > 1 and evaluated:
        for number, queued in enumerate(flood.queued):
            values[f"queue_{number}_share"] = queued / sum(flood.queued)
    values[OTHERS_SHARE] = flood.cpu.others_share
    took_all = lost == 0 and flood.backlog < _FULL
    return Sample(
        values=values,
        generator_limited=inline or took_all or demand < _NEVER_IDLE,
        notes=tuple(_notes(flood, inline=inline)),
    )


def _notes(flood: Flood, *, inline: bool) -> Iterator[str]:
    if flood.refused:
        yield f"{flood.refused:,} packets refused by the sender's interface"
    for count, where in ((flood.queue_dropped, "at the full queue"), (flood.user_dropped, "at the full socket of the worker")):
        if count:
            yield f"{count:,} of {flood.sent:,} packets dropped {where}"
    if flood.unjudged:
        yield f"{flood.unjudged:,} packets without a verdict"
    if not flood.drained:
        yield "the queue did not empty after the load"
    yield from others_notes(flood.cpu.others_share, flood.elapsed_s)
    elsewhere = flood.sent - flood.delivered - flood.queue_dropped - flood.user_dropped
    if elsewhere and not flood.queued:
        yield f"{elsewhere:,} of {flood.sent:,} packets not delivered"
    if inline:
        yield "works on the time of the generator's core: sending and forwarding share it"
