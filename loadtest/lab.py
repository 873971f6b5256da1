"""A node with an agent or a reference, a sender, and a pod that counts the received packets.

`lab` opens a lab, `Lab.flood` sends the load.
"""

import json
import subprocess
import time

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from loadtest import clusters, processes
from loadtest.processes import Usage, Watch
from loadtest.subjects import Started, Subject, counter, queues, run
from loadtest.testbed.box import Box, Host
from loadtest.testbed.manifests import Body
from loadtest.traffic import Traffic
from netpolq.netlink.queue_table import QueueStats

SENDER = "sender"
RECEIVER = "load/server"
_LIMIT_S = 60.0
_DRAIN_LIMIT_S = 5.0
_STEP_S = 0.0005
_QUIET_S = 0.02
_NEVER_RESTS = ("sh", "-c", "while :; do :; done")

# Before connection tracking and everything else, and without an answer: each packet is counted once, at a low cost.
_SINK = """table inet sink {
    counter arrived { }
    chain incoming { type filter hook prerouting priority -300; meta l4proto { tcp, udp } counter name arrived drop; }
}"""


class _Sent(TypedDict):
    sent: int
    refused: int
    began_s: float
    ended_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """The result of one load.

    `offered_s`: from the first to the last packet sent; `elapsed_s`: until the last packet was delivered; `backlog`: packets in the queues
    when the generator ended; `drained`: whether the queues were empty at the end; `queued`: packets by queue.
    """

    sent: int
    refused: int
    offered_s: float
    elapsed_s: float
    delivered: int
    backlog: int
    drained: bool
    queued: tuple[int, ...]
    queue_dropped: int
    user_dropped: int
    unjudged: int
    cpu: Usage


class Lab:
    """An open lab. `started`: the subject in the node."""

    def __init__(self, box: Box, started: Started, shared_cpu: int | None = None) -> None:
        self.box = box
        self.started = started
        self._to_mac = run(box, box.node.name, ["cat", "/sys/class/net/pod0/address"]).strip()
        self._shared_cpu = shared_cpu
        self._floods = 0

    def flood(self, traffic: Traffic) -> Flood:
        """Send one load, and wait until all its packets are handled. The connection table is empty before and after."""
        run(self.box, self.box.node.name, ["conntrack", "--flush"])
        before, arrived, unjudged = queues(self.box), self._arrived(), self.started.unjudged()
        watch = Watch(self.started.workers)
        with self._competitor() as competitor:
            sent = self._send(traffic)
            waiting = self._waiting()
            competing = processes.cpu_times(competitor)
        backlog, drained_s = waiting, 0.0
        deadline_s = time.monotonic() + _DRAIN_LIMIT_S
        while waiting and time.monotonic() < deadline_s:
            time.sleep(_STEP_S)
            waiting, drained_s = self._waiting(), time.monotonic()
        ours_s = sum(one["cpu_s"] for one in sent) + sum(used.running_ns for used in competing.values()) / 1e9
        usage = watch.usage(ours_s)
        time.sleep(_QUIET_S)
        began_s = min(one["began_s"] for one in sent)
        ended_s = max(one["ended_s"] for one in sent)
        after = queues(self.box)
        flood = Flood(
            sent=sum(one["sent"] for one in sent),
            refused=sum(one["refused"] for one in sent),
            offered_s=ended_s - began_s,
            elapsed_s=max(ended_s, drained_s) - began_s,
            delivered=self._arrived() - arrived,
            backlog=backlog,
            drained=not waiting,
            queued=_increase(before, after, "id_sequence"),
            queue_dropped=sum(_increase(before, after, "queue_dropped")),
            user_dropped=sum(_increase(before, after, "user_dropped")),
            unjudged=self.started.unjudged() - unjudged,
            cpu=usage,
        )
        run(self.box, self.box.node.name, ["conntrack", "--flush"])
        self._floods += 1
        return flood

    def _waiting(self) -> int:
        return sum(queue.queue_total for queue in queues(self.box))

    @contextmanager
    def _competitor(self) -> Iterator[tuple[int, ...]]:
        """Run a process that competes with the workers for their CPU."""
        if self._shared_cpu is None:
            yield ()
            return
        argv = ["taskset", "--cpu-list", str(self._shared_cpu), *_NEVER_RESTS]
        process = self.box.popen(self.box.node.name, argv, log=self.box.directory / "competitor.log")
        try:
            yield (process.pid,)
        finally:
            process.kill()
            process.wait()

    def _send(self, traffic: Traffic) -> list[_Sent]:
        log = self.box.directory / "flows.log"
        destination = self.box.hosts[RECEIVER].addresses[":" in traffic.sources[0]]
        generators: list[subprocess.Popen[str]] = [
            self.box.popen(
                SENDER,
                traffic.argv(part, self._floods, interface="eth0", to_mac=self._to_mac, destination=destination),
                log=log,
                pipe=True,
            )
            for part in range(len(traffic.cpus))
        ]
        limit_s = _LIMIT_S + (traffic.packets / traffic.rate_per_s if traffic.rate_per_s else 0.0)
        outputs = [generator.communicate(timeout=limit_s)[0] for generator in generators]
        if any(generator.returncode for generator in generators):
            raise RuntimeError(f"the generator failed: {log.read_text(encoding='utf-8').strip()}")
        return [json.loads(output) for output in outputs]

    def _arrived(self) -> int:
        return counter(self.box, RECEIVER, "sink", "arrived")


@contextmanager
def lab(bodies: Iterable[Body], subject: Subject, *, cpus: Sequence[int] = (), half_a_core: bool = False) -> Iterator[Lab]:
    """Open a lab.

    `bodies`: namespaces, pods and policies; `clusters.SERVER` is its pod. `cpus`: the CPUs of the workers. `half_a_core`: during a load a
    busy loop shares the first of them.
    """
    node = Host(name=clusters.NODE.name, addresses=clusters.NODE.addresses)
    with Box(node=node, hosts=[Host(name=SENDER, addresses=clusters.UPLINK), clusters.SERVER]) as box:
        run(box, RECEIVER, ["nft", "-f", "-"], stdin=_SINK)
        manifests = box.directory / "manifests"
        clusters.write(manifests, bodies)
        with subject.start(box, manifests) as started:
            if cpus:
                processes.keep_on(started.workers, cpus)
            yield Lab(box, started, cpus[0] if half_a_core else None)


def _increase(before: Sequence[QueueStats], after: Sequence[QueueStats], field: str) -> tuple[int, ...]:
    """The increase by queue; counters wrap at 2**32."""
    earlier = {queue.queue_num: getattr(queue, field) for queue in before}
    return tuple((getattr(queue, field) - earlier.get(queue.queue_num, 0)) % 2**32 for queue in after)


CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@contextmanager
def room_for_connections(entries: int) -> Iterator[None]:
    """Raise the limit of the connection table to at least this number of entries, and restore it at the end.

    The limit is that of the whole machine, and only the first network namespace may change it. Raises `RuntimeError` in another one.
    """
    before = int(CONNTRACK_MAX.read_text(encoding="ascii")) if CONNTRACK_MAX.exists() else 0
    if before >= entries:
        yield
        return
    try:
        CONNTRACK_MAX.write_text(str(entries), encoding="ascii")
    except OSError as error:
        raise RuntimeError(f"{CONNTRACK_MAX} must be {entries} at least, is {before}, and cannot be changed here") from error
    try:
        yield
    finally:
        if CONNTRACK_MAX.read_text(encoding="ascii").strip() == str(entries):
            CONNTRACK_MAX.write_text(str(before), encoding="ascii")
