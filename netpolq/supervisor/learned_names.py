"""Learned names: takes DNS answers, gives their addresses to the store, and confirms them when new connections meet them.

    answer ──► table ──► store ──► (compile, publish, workers, verdict cache) ──► confirmation
                 ▲ │
                 │ └──► file in the run directory ──► the next supervisor
                 └── bounds, and addresses that no name may open

The response to the pod waits for the confirmation. So a change that an answer makes is published as soon as possible
(`netpolq.supervisor.enforcer.pause`), and confirmed when `Rollout.is_in_use` holds. Confirmations keep the order of the answers: one
covers all before it. An answer that changes nothing still waits for those before it, since its addresses may be theirs.

Which names matter is known when this supervisor has compiled. Before, it learns every name, and forgets those that no policy uses then.
"""

import asyncio
import logging
import time

from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress

from netpolq.addresses import AddressKey
from netpolq.dataplane.interface_addresses import interface_addresses
from netpolq.ipc.channel import Answer, AnswersInForce, Channel
from netpolq.model import Node, Object, ObjectKey, Pod, Update
from netpolq.names.admission import ClusterAddresses, refusal
from netpolq.names.document import kept
from netpolq.names.table import NameTable, Refusal
from netpolq.policy.compiler import Compiler
from netpolq.store import Store
from netpolq.supervisor import names_report
from netpolq.supervisor.names_file import NamesFile
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout_events import Noticed
from netpolq.supervisor.timings import Timings

SAVE_INTERVAL_S = 1.0
"""Minimum interval between two copies of the table."""

_MAX_SAVE_SHARE = 0.05
"""Maximum share of the time for copies. The largest table is written every few seconds."""

_TICK_S = 1.0
_INTERFACES_S = 10.0
_REFUSALS_S = 60.0
_MAX_WAITING = 1024
"""Maximum number of answers that wait. With more, the newest two become one."""

log = logging.getLogger("names")


class LearnedNames:
    """The names of the store. `table`: what is known, in monotonic seconds. `file`: its copy.

    `confirmed`: number of the newest answer that was confirmed.
    """

    def __init__(
        self,
        *,
        store: Store,
        compiler: Compiler,
        progress: Progress,
        channel: Channel,
        file: NamesFile,
        timings: Timings,
        min_ttl_s: int,
        grace_s: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._compiler = compiler
        self._progress = progress
        self._channel = channel
        self._timings = timings
        self._clock = clock
        self._cluster = ClusterAddresses()
        self._waiting: deque[tuple[int, int]] = deque()  # number of an answer, time at which its change was noticed (0: none)
        self._in_use = 0  # number of the newest answer that can be confirmed
        self._unsynced = 0  # number of the newest answer from before the first sync
        self._patterns_version: int | None = None  # at the last look; None until this supervisor has compiled
        self._work = progress.subscribe()
        self._outdated = asyncio.Event()
        self._may_write = asyncio.Event()
        self._logged_refusals: Counter[Refusal] = Counter()
        self._interfaces_due_s = self._refusals_due_s = 0.0
        self.file = file
        self.table = NameTable(min_ttl_s=min_ttl_s, grace_s=grace_s)
        self.confirmed = 0

    def load(self) -> None:
        """Read the file. Call it before the first sync, and when no other process writes the file any more."""
        now_s = self._clock()
        changed: set[AddressKey] = set()
        for pair in self.file.load():
            if self._may_be_learned(pair.address):
                changed |= self.table.put(pair.pod, pair.name, pair.address, pair.expiry_s, now_s)
        self._apply(changed | self.table.expire(now_s), is_awaited=True)

    def stood_down(self) -> None:
        """No other process writes the file. What another agent has learned until then counts, too."""
        if not self._may_write.is_set():
            self.load()
            self._may_write.set()

    # --- answers ------------------------------------------------------------------------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """Learn the addresses of an answer, and confirm it in its turn."""
        now_ns = time.monotonic_ns()
        changed: set[AddressKey] = set()
        if self._patterns_version is None or self._compiler.matches_name(answer.name):
            allowed = [(AddressKey(key), ttl_s) for key, ttl_s in answer.addresses if self._may_be_learned(AddressKey(key))]
            changed = self.table.learn(AddressKey(answer.pod), answer.name, allowed, self._clock())
            self._outdated.set()
        self._apply(changed, is_awaited=True, now_ns=now_ns)
        if self._store.synced:
            self._await_turn(answer.number, now_ns if changed else 0)
        else:
            self._unsynced = answer.number
        self._confirm()

    def _await_turn(self, number: int, noticed_ns: int) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            _number, before_ns = self._waiting.pop()
            noticed_ns = max(noticed_ns, before_ns)
        self._waiting.append((number, noticed_ns))

    def _may_be_learned(self, address: AddressKey) -> bool:
        cause = refusal(address, self._cluster, is_of_pod=bool(self._store.pods_with_address(address)))
        if cause is not None:
            self.table.refused[cause] += 1
        return cause is None

    def _apply(self, changed: set[AddressKey], *, is_awaited: bool, now_ns: int | None = None) -> None:
        """Give the names of these addresses to the store."""
        if not changed:
            return
        for address in changed:
            self._store.set_names(address, self.table.names_of(address))
        self._outdated.set()
        if self._store.synced:  # else the first sync follows
            self._progress.send(Noticed(time.monotonic_ns() if now_ns is None else now_ns, is_awaited=is_awaited))

    def _confirm(self) -> None:
        """Confirm the answers, from the oldest on, that new connections meet by now."""
        if not self._store.synced:
            return
        now_ns = time.monotonic_ns()
        if self._unsynced:  # the first sync was noticed until now
            self._waiting.appendleft((self._unsynced, now_ns))
            self._unsynced = 0
        while self._waiting and self._progress.rollout.is_in_use(self._waiting[0][1]):
            self._in_use, noticed_ns = self._waiting.popleft()
            if noticed_ns:
                self._timings.names.observe((now_ns - noticed_ns) / 1e9)
        if self._in_use > self.confirmed and self._channel.send(AnswersInForce(self._in_use)):
            self.confirmed = self._in_use

    def report(self) -> bytes:
        """The document of `netpolq names`."""
        found = names_report.learned_names(
            self.table, self._store.cluster_policies.values(), grace_s=self.table.grace_s, now_s=self._clock()
        )
        return names_report.encode(found)

    # --- what else changes names --------------------------------------------------------------------------------------------------

    def note(self, update: Update) -> None:
        """Forget the addresses that turn out to be those of pods or nodes. Call it before the store applies an update."""
        gone: set[AddressKey] = set()
        for item in update.upserted:
            if isinstance(item, Pod | Node):
                self._cluster.replace(self._known(item.key), item)
                for address in (*item.ips, *item.host_ips) if isinstance(item, Pod) else item.addresses:
                    gone |= self.table.forget_address(address)
        for key in update.deleted:
            self._cluster.replace(self._known(key), None)
        self._apply(gone, is_awaited=False)

    def _known(self, key: ObjectKey) -> Object | None:
        if key.kind == "Pod":
            return self._store.pods.get((key.namespace, key.name))
        return self._store.nodes.get(key.name) if key.kind == "Node" else None

    def _follow_patterns(self) -> None:
        """Forget the names that no policy uses any more."""
        if self._progress.rollout.next_is_complete:
            return  # nothing is compiled yet
        version = self._compiler.patterns_version
        if version != self._patterns_version:
            self._patterns_version = version
            self._apply(self.table.retain(self._compiler.matches_name), is_awaited=False)

    # --- tasks --------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_rollout())
            tasks.create_task(self._tick())
            tasks.create_task(self._keep_file())

    async def _follow_rollout(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            self._confirm()
            self._follow_patterns()

    async def _tick(self) -> None:
        while True:
            now_s = self._clock()
            self._confirm()  # the pool may have been too busy to read
            self._apply(self.table.expire(now_s), is_awaited=False)
            if now_s >= self._interfaces_due_s:
                self._interfaces_due_s = now_s + _INTERFACES_S
                found = await asyncio.to_thread(interface_addresses)
                self._cluster.interfaces = frozenset().union(*found.values())
                gone = [self.table.forget_address(address) for address in self._cluster.interfaces]
                self._apply(set().union(*gone), is_awaited=False)
            if now_s >= self._refusals_due_s:
                self._refusals_due_s = now_s + _REFUSALS_S
                self._log_refusals()
            await asyncio.sleep(_TICK_S)

    def _log_refusals(self) -> None:
        new = self.table.refused - self._logged_refusals
        if new:
            causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(new.items()))
            log.warning("addresses of DNS answers that were not learned in the last minute: %s; see docs/names.md", causes)
        self._logged_refusals = Counter(self.table.refused)

    async def _keep_file(self) -> None:
        await self._may_write.wait()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SAVE_INTERVAL_S):
                    await self._outdated.wait()
            if not self._outdated.is_set() and not (self.file.is_missing and len(self.table)) and self.file.problem is None:
                continue
            started_s = time.monotonic()
            self._outdated.clear()
            await self.file.save(kept(self.table))
            await asyncio.sleep(max(SAVE_INTERVAL_S, (time.monotonic() - started_s) / _MAX_SAVE_SHARE))

    async def leave(self) -> None:
        """Write the file a last time."""
        if self._may_write.is_set():
            await self.file.save(kept(self.table))
