"""A pool on the node of the lab: its workers and its waiting process, with snapshots of the test in place of a supervisor."""

import asyncio
import time

from collections.abc import Callable, Sequence

from netpolq.addresses import parse_address
from netpolq.dataplane.install import probe
from netpolq.dataplane.queue_rule import replace_queue_rule
from netpolq.dataplane.ruleset import RulesetConfig
from netpolq.enums import Dataplane, NodeEgress, PacketMark
from netpolq.ipc import counter_memory
from netpolq.ipc.channel import Counters, Message, Report
from netpolq.netlink.nftables import commit
from netpolq.settings import resolve
from netpolq.snapshot.memfd import seal
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.restart_policy import exited_children
from netpolq_worker.pool.spawn import SnapshotHandle
from netpolq_worker.pool.workers import Workers
from tests.netns.dataplane.lab import NODE, Lab, nft, run
from tests.support.compiled import encode, known_peers

LIMIT_S = 20.0
MARK_MASK = 0x70
_POLL_S = 0.005


class Pool:
    """Workers in the lab's node. `reports`: the last one of each slot."""

    def __init__(self, lab: Lab, first_queue: int, *flags: str, workers: int = 1) -> None:
        self._lab = lab
        self.settings = resolve([f"--nfqueue-id={first_queue}", f"--workers={workers}", *flags], {})
        self.reports: dict[int, Report] = {}
        self._version = 0
        with lab.inside(NODE):
            self._events = EventLoop()
            self.workers = Workers(self.settings, self._events, self._on_message)
        self.publish((), ())

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Report):
            self.reports[message.slot] = message

    @property
    def waiting(self) -> Report:
        """The last report of the waiting process."""
        return self.reports[self.settings.queue_count]

    def publish(self, friends: Sequence[str], strangers: Sequence[str], changed: Sequence[str] | None = None) -> None:
        """Publish a snapshot that knows these addresses, and in which pod b admits the friends."""
        self._version += 1
        image = encode(known_peers(pods=PODS, friends=friends, strangers=strangers), version=self._version)
        keys = None if changed is None else tuple(map(parse_address, changed))
        self.workers.load(SnapshotHandle(self._version, seal(image)), keys)

    def run_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Run the pool until the condition holds."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"not {what}: {self.reports}"
            self.run_once()

    def run_once(self) -> None:
        with self._lab.inside(NODE):  # forks must be there
            now = time.monotonic()
            if not self.workers.is_draining:
                self.workers.start_due(now)
            self._events.poll(_POLL_S)
            for pid, code in exited_children():
                self.workers.on_exit(pid, code, time.monotonic())

    def start(self) -> None:
        self.run_until("running", lambda: len(self.reports) == self.settings.queue_count + 1 and self.is_current())

    def is_current(self) -> bool:
        """Whether all processes have loaded the newest snapshot."""
        return all(report.pid and report.acked_version == self._version for report in self.reports.values())

    def holds(self, count: int) -> None:
        """Run until this many packets wait."""
        self.run_until(f"{count} packets wait", lambda: self.waiting.held == count)

    def drain(self, successor_queue: int | None = None) -> None:
        """End all processes."""
        self.workers.drain(successor_queue)
        self.run_until("drained", lambda: not any(child.pid for child in self.workers.children))

    def close(self) -> None:
        if not self.workers.is_draining:
            self.drain()
        self.workers.close()

    def counted(self, metric: str, **labels: str) -> int:
        """A counter of all processes. They write it a few times a second."""
        announced = self.workers.memories
        memories = {message.metrics_file_id: descriptor for message, descriptor in announced if isinstance(message, Counters)}
        found = {family.name: family for family in counter_memory.merge(memories)}
        samples = found[metric].samples if metric in found else ()
        return int(sum(sample.value for sample in samples if labels.items() <= sample.labels.items()))


PODS = ("10.77.2.2", "fd77:2::2")
"""The addresses of pod b, which is isolated."""


def queue_new_connections(lab: Lab, pool: Pool, state: PacketMark) -> None:
    """Queue the packets of new connections to pod b for the workers of a pool, in this state. Replaces the rules of an earlier call."""
    with lab.inside(NODE):
        form = asyncio.run(probe(Dataplane.AUTO))
        run("nft", "flush", "ruleset")
        settings = pool.settings
        commit(
            replace_queue_rule(
                RulesetConfig(
                    queue_first=settings.queue_first,
                    queue_count=settings.queue_count,
                    fanout=False,
                    fail_open=settings.fail_open,
                    mark_mask=MARK_MASK,
                    ct_label=120,
                    node_egress=NodeEgress.JUDGE,
                    dns_in_prerouting=False,
                    form=form,
                )
            )
        )
        nft(f"""
            table inet netpolq {{
                counter accepted {{}}
                counter unjudged {{}}
                chain unknown {{
                    type filter hook forward priority 0
                    ct state new oifname pod-b meta mark set {state << 4:#x} jump enqueue
                }}
                chain passed {{
                    type filter hook postrouting priority 0
                    udp dport 9000 meta mark and {MARK_MASK:#x} == {PacketMark.ACCEPTED << 4:#x} counter name accepted
                    udp dport 9000 meta mark and {MARK_MASK:#x} == {state << 4:#x} counter name unjudged
                }}
            }}""")


def passed(lab: Lab, counter: str) -> int:
    """Datagrams to port 9000 that have passed with the state that a counter is for."""
    with lab.inside(NODE):
        listed = run("nft", "list", "counter", "inet", "netpolq", counter)
    return int(listed.split("packets ")[1].split()[0])
