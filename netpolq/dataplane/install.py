"""Installs the table `inet netpolq`, changes its sets, and restores what other processes change.

Only this module, `ruleset_sockets`, `ruleset_writer` and `cleanup` change the table. None but `cleanup` deletes or flushes a table or a
base chain while packets may be waiting for a verdict, unless the table cannot be changed in another way (`RulesetWriter`).
"""

import asyncio

from collections.abc import Callable, Mapping, Sequence

from netpolq.dataplane.change_monitor import Change, is_later
from netpolq.dataplane.cleanup import cleanup
from netpolq.dataplane.kernel_errors import RulesetError, explained
from netpolq.dataplane.nft_program import DEADLINE_S
from netpolq.dataplane.probe import probe
from netpolq.dataplane.ruleset_config import IsolatedSets, RulesetConfig
from netpolq.dataplane.ruleset_names import ENQUEUE, ENQUEUE_NAMES, TABLE, verdict_maps
from netpolq.dataplane.ruleset_reads import read_chain_uses, read_counters, read_generation, read_state
from netpolq.dataplane.ruleset_sockets import RulesetSockets
from netpolq.dataplane.ruleset_writer import RulesetWriter
from netpolq.dataplane.set_elements import change_elements, elements_of
from netpolq.dataplane.table_state import ELEMENTS_PREFIX, KnownElements, TableState
from netpolq.dataplane.verdict_maps import CountedKey, read_counts, remember
from netpolq.ipc.channel import CachedVerdict

__all__ = ["Ruleset", "RulesetError", "cleanup", "probe"]

_MAX_READ_BACKS = 3


class Ruleset:
    """The table `inet netpolq` of this network namespace. Calls may overlap: a lock serializes those that change rules and sets.

    After an installation the whole table is read back and expected to stay as it is: chains, rules, sets, objects, and the elements of
    all sets that have no time-outs. The sets of `IsolatedSets.by_set_name` change with `update`. The elements of the verdict maps time
    out, so they are not compared: only the kernel's notifications show what other processes write into them.

    Every method may raise `PrivilegeError` or `RulesetError`.
    """

    def __init__(self, config: RulesetConfig, *, nft_deadline_s: float = DEADLINE_S) -> None:
        """`nft_deadline_s`: for installations after the first one."""
        self._config = config
        self._config_in_force: RulesetConfig | None = None
        self._in_force: IsolatedSets | None = None  # None: unknown, so that the next change installs everything again
        self._expected: TableState | None = None
        self._found: TableState | None = None  # the table as it was last read by `difference`
        self._known_elements: KnownElements = {}
        self._lock = asyncio.Lock()
        self._maps = verdict_maps(are_counted=config.counts_verdicts)
        self._sockets = RulesetSockets(self._maps)
        self._writer = RulesetWriter(self._sockets, nft_deadline_s=nft_deadline_s)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call this, from now on, when another process has changed the table. Needs a running loop."""
        self._sockets.watch(on_change)

    @property
    def may_have_changed(self) -> bool:
        """Whether another process has touched the table since it was last read or installed, according to the notifications."""
        return self._sockets.may_have_changed

    async def install(self, sets: IsolatedSets) -> None:
        """Install the whole ruleset. It replaces a ruleset that an earlier agent left."""
        async with self._lock:
            await self._install(sets)

    @property
    def config(self) -> RulesetConfig:
        """The configuration of the next installation."""
        return self._config

    def reconfigure(self, config: RulesetConfig) -> None:
        """Use this configuration from the next `install`, `update` or `restore` on, which then installs everything."""
        self._config = config

    async def update(self, sets: IsolatedSets) -> None:
        """Change the sets to these without starting a program.

        Before the first `install`, after a failure, and after `reconfigure`, install everything.
        """
        async with self._lock:
            if self._in_force is None or self._expected is None or self._config != self._config_in_force:
                await self._install(sets)
            elif sets != self._in_force:
                await self._change_elements(self._expected, sets)

    async def remember_verdicts(self, entries: Sequence[CachedVerdict], ttl_ms: int) -> None:
        """Add at most `MAX_DECISIONS` decisions to the verdict maps, in one transaction. Needs `install` before."""
        await asyncio.to_thread(self._sockets.commit_to_maps, remember(self._maps, entries, ttl_ms))

    async def forget_verdicts(self, entries: Sequence[CachedVerdict] | None) -> bool:
        """Remove decisions from the verdict maps, in one transaction; None: all. Returns whether any others may be left.

        A decision that has timed out cannot be removed individually, and more than `MAX_DECISIONS` do not fit into one transaction: in
        both cases the maps are emptied. A missing table counts as empty. Does not wait for changes of rules or sets.
        """
        return await asyncio.to_thread(self._sockets.forget, entries)

    async def verdict_counts(self) -> Mapping[CountedKey, int]:
        """Packets by decision in the verdict maps; empty unless the configuration has `counts_verdicts`."""
        return await asyncio.to_thread(explained()(read_counts), self._maps) if self._config.counts_verdicts else {}

    async def difference(self) -> str | None:
        """How the table differs from what this object wrote, and which process changed it; None if it does not differ."""
        async with self._lock:
            return await self._difference()

    async def in_place(self) -> bool:
        """Whether the table is as this object wrote it."""
        return await self.difference() is None

    async def restore(self, sets: IsolatedSets) -> None:
        """Restore what others have changed, as `difference` found it. If only elements of sets differ, no program is started."""
        async with self._lock:
            expected, found = self._expected, self._found
            is_changed = self._config != self._config_in_force
            if is_changed or expected is None or found is None or not await self._restore_elements(expected, found, sets):
                await self._install(sets)

    async def has_rules(self) -> bool:
        """Whether the table has rules besides the queue rules, of any version: from an earlier agent, or from one that runs now."""
        uses = await asyncio.to_thread(read_chain_uses)
        return any(use for chain, use in uses.items() if chain not in {ENQUEUE, ENQUEUE_NAMES})

    async def counters(self) -> Mapping[str, int]:
        """Packets by named counter; empty while there is no table."""
        return await asyncio.to_thread(read_counters)

    async def _difference(self) -> str | None:
        expected = self._expected
        if expected is None:
            return "the table is not installed"
        monitor = self._sockets.monitor
        monitor.read()
        lost, monitor.has_lost_some = monitor.has_lost_some, False
        state = self._found = await asyncio.to_thread(read_state, self._known_elements)
        monitor.read()
        later = [change for change in monitor.changes if is_later(change.generation, expected.generation)]
        found = state.differences(expected)
        # Elements that are not compared: only a notification shows their change.
        maps = {name for change in later for name in change.sets} - expected.elements.keys()
        found += [f"{ELEMENTS_PREFIX}{name} may differ" for name in sorted(maps) if f"set {name}" in expected.objects]
        if not found:
            monitor.forget(state.generation)
            self._expected = expected._replace(generation=state.generation)
            return None
        by = ", ".join(dict.fromkeys(map(str, later))) or ("too many processes to list" if lost else "an unknown process")
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"{'; '.join(found[:3])}{more}; changed by {by}"

    async def _restore_elements(self, expected: TableState, state: TableState, sets: IsolatedSets) -> bool:
        """Whether only elements of isolated sets differed, and are restored."""
        monitor = self._sockets.monitor
        wanted = await asyncio.to_thread(elements_of, sets)  # slow with many thousands of addresses
        others = {set_name: members for set_name, members in expected.elements.items() if set_name not in wanted}
        monitor.read()
        touched = {set_name for change in monitor.changes for set_name in change.sets}
        if (
            state.objects != expected.objects
            or {set_name: state.elements.get(set_name) for set_name in others} != others
            or touched - expected.elements.keys()
        ):
            return False
        self._in_force = None
        present = {set_name: state.elements.get(set_name, frozenset()) for set_name in wanted}
        await asyncio.to_thread(self._sockets.commit, change_elements(present, wanted))
        self._expected = TableState(state.generation, expected.objects, {**others, **wanted})
        self._in_force = sets
        monitor.forget(state.generation)
        return True

    async def _change_elements(self, expected: TableState, sets: IsolatedSets) -> None:
        self._in_force = None
        wanted = await asyncio.to_thread(elements_of, sets)
        requests = change_elements({set_name: expected.elements[set_name] for set_name in wanted}, wanted)
        if requests:
            await asyncio.to_thread(self._sockets.commit, requests)
        self._expected = expected._replace(elements={**expected.elements, **wanted})
        self._in_force = sets

    async def _install(self, sets: IsolatedSets) -> None:
        """Install until the table that is read back is what this object wrote, without changes of other processes in between."""
        self._in_force = self._expected = None
        config = self._config
        monitor = self._sockets.monitor
        touches: list[Change] = []
        wanted = await asyncio.to_thread(elements_of, sets)
        for _ in range(_MAX_READ_BACKS):
            started = await asyncio.to_thread(read_generation)
            await self._writer.write(config, sets)
            state = await asyncio.to_thread(read_state, self._known_elements)
            finished = await asyncio.to_thread(read_generation)
            await self._sockets.wait_for_notification(finished)
            lost, monitor.has_lost_some = monitor.has_lost_some, False
            # Only one change does not come from our own sockets: that of nft.
            touches = [change for change in monitor.changes if is_later(change.generation, started)]
            if not lost and len(touches) == 1 and wanted.items() <= state.elements.items():
                monitor.forget(finished)
                self._expected = state._replace(generation=finished)
                self._config_in_force, self._in_force = config, sets
                return
        others = ", ".join(dict.fromkeys(str(change) for change in touches[:-1])) or "an unknown process"
        raise RulesetError(f"other processes change table inet {TABLE} while it is installed: {others}")
