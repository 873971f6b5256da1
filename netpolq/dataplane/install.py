"""Puts the ruleset into the kernel and keeps it there. The only module that changes the table `inet netpolq`.

Nothing here deletes or flushes a table or a base chain while packets may be waiting for a verdict, save `cleanup`.
"""

import asyncio
import time
import weakref

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from netpolq.dataplane import bridge_guard
from netpolq.dataplane.change_monitor import Change, ChangeMonitor, is_later
from netpolq.dataplane.conntrack import clear_accepted
from netpolq.dataplane.host_checks import require_supported_kernel
from netpolq.dataplane.kernel_errors import RulesetError, explained, missing_privilege
from netpolq.dataplane.nft_program import DEADLINE_S, MAX_DEADLINE_S, NftTimeoutError, run_nft
from netpolq.dataplane.queue_rule import replace_queue_rule, try_queue_rule
from netpolq.dataplane.ruleset import ENQUEUE, TABLE, IsolatedSets, RulesetConfig, chains, render
from netpolq.dataplane.set_elements import change_elements, elements_of
from netpolq.dataplane.table_state import (
    ELEMENTS_PREFIX,
    KnownElements,
    TableState,
    read_chain_uses,
    read_chains,
    read_counters,
    read_generation,
    read_state,
)
from netpolq.dataplane.verdict_maps import MAX_DECISIONS, forget, forget_all, remember
from netpolq.enums import ConnectionLabel, Dataplane
from netpolq.errors import KernelError
from netpolq.hold import ruleset as hold_ruleset
from netpolq.ipc.channel import Hint
from netpolq.netlink import nftables
from netpolq.netlink.nftables import Connection, Request, commit, dry_run, open_socket

__all__ = ["Ruleset", "RulesetError", "cleanup", "probe"]

_MAX_READ_BACKS = 3
_NOTIFICATION_LIMIT_S = 1.0
_NEEDED = f"""
add table inet {TABLE}-probe
add chain inet {TABLE}-probe needed {{ type filter hook prerouting priority 0; }}
add rule inet {TABLE}-probe needed ct label 0 ct label set 1 fib saddr . iif oif 0
"""
"""What the ruleset needs besides the queue rule, and what some kernels are built without."""


class _Sockets:
    """Of the changes of sets and queue rule, of those of the verdict maps, and of the notifications of what others change."""

    def __init__(self) -> None:
        self.sets, self.maps = Connection(), Connection()
        self.monitor = ChangeMonitor(TABLE, (self.sets.port, self.maps.port))

    def close(self) -> None:
        for one in (self.sets.socket, self.maps.socket, self.monitor.socket):
            one.close()


class Ruleset:
    """The table `inet netpolq` of this network namespace. Calls may overlap: those that change rules and sets take turns.

    After an installation everything is read back, and is expected to stay: chains, rules, sets, objects, and the elements of all sets that
    have no time-outs. Those that `IsolatedSets.by_set_name` names change with `update`. The verdict maps change by themselves: what
    others write into them is known from the kernel's notifications alone.

    Every method may raise `PrivilegeError` or `RulesetError`.
    """

    def __init__(self, config: RulesetConfig, *, nft_deadline_s: float = DEADLINE_S) -> None:
        """`nft_deadline_s`: for installations after the first one."""
        self._config = config
        self._usual_nft_deadline_s = nft_deadline_s
        self._in_force: IsolatedSets | None = None  # None: unknown, so that the next change puts everything in place again
        self._expected: TableState | None = None
        self._found: TableState | None = None  # what differed from it at the last look
        self._known_elements: KnownElements = {}
        self._turn = asyncio.Lock()
        self._sockets: _Sockets | None = None
        self._on_change: Callable[[], None] | None = None
        # The first time the kernel may have to load modules, and no change in force waits for it.
        self._nft_deadline_s = MAX_DEADLINE_S

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call this, from now on, when another process has changed the table. Needs a running loop."""
        self._on_change = on_change
        if self._sockets is not None:
            monitor = self._sockets.monitor
            asyncio.get_running_loop().add_reader(monitor.socket.fileno(), _read_notifications, monitor, on_change)

    @property
    def may_have_changed(self) -> bool:
        """Whether another process has touched the table, as far as is known, since it was last looked at or installed."""
        return self._sockets is not None and self._sockets.monitor.has_news

    async def install(self, sets: IsolatedSets) -> None:
        """Put the whole ruleset in place, over nothing or over whatever an earlier agent left.

        The queue rule comes first: the chains that jump to it never find it missing.
        """
        async with self._turn:
            await self._install(sets)

    async def update(self, sets: IsolatedSets) -> None:
        """Change the sets to these, without any program. After a failure, and before the first `install`, this installs everything."""
        async with self._turn:
            if self._in_force is None or self._expected is None:
                await self._install(sets)
            elif sets != self._in_force:
                await self._change_elements(self._expected, sets)

    async def remember_verdicts(self, hints: Sequence[Hint], ttl_ms: int) -> None:
        """Put at most `MAX_DECISIONS` decisions into the maps, in one transaction. Needs `install` before."""
        await asyncio.to_thread(self._commit_to_maps, remember(hints, ttl_ms))

    async def forget_verdicts(self, hints: Sequence[Hint] | None) -> bool:
        """Take decisions out of the maps, in one transaction; None: all. Returns whether any others may be left.

        What has timed out cannot be taken out by itself, and more than `MAX_DECISIONS` do not fit into one transaction: then the maps
        are emptied. A table that is gone holds nothing to forget. Waits for no change of rules or sets.
        """
        return await asyncio.to_thread(self._forget, hints)

    async def difference(self) -> str | None:
        """What of the table is not as this object left it, and which process changed it; None if all is."""
        async with self._turn:
            return await self._difference()

    async def in_place(self) -> bool:
        """Whether the table is as this object left it."""
        return await self.difference() is None

    async def restore(self, sets: IsolatedSets) -> None:
        """Put back what others have changed, as found by `difference`. If that is elements of sets alone, no program is started."""
        async with self._turn:
            expected, found = self._expected, self._found
            if expected is None or found is None or not await self._restore_elements(expected, found, sets):
                await self._install(sets)

    async def has_rules(self) -> bool:
        """Whether the table has rules beside the queue rule, of whichever version: left by an earlier agent, or of one that runs now."""
        uses = await asyncio.to_thread(_read_chain_uses)
        return any(use for chain, use in uses.items() if chain != ENQUEUE)

    async def counters(self) -> Mapping[str, int]:
        """Packets by named counter; empty while there is no table."""
        return await asyncio.to_thread(_read_counters)

    async def _difference(self) -> str | None:
        expected = self._expected
        if expected is None:
            return "the table is not installed"
        monitor = self._open().monitor
        monitor.read()
        lost, monitor.has_lost_some = monitor.has_lost_some, False
        state = self._found = await asyncio.to_thread(_read_state, self._known_elements)
        monitor.read()
        culprits = [change for change in monitor.changes if is_later(change.generation, expected.generation)]
        found = state.differences(expected)
        # Elements that are not compared: nothing but a notification tells of them.
        maps = {name for change in culprits for name in change.sets} - expected.elements.keys()
        found += [f"{ELEMENTS_PREFIX}{name} may differ" for name in sorted(maps) if f"set {name}" in expected.objects]
        if not found:
            monitor.forget(state.generation)
            self._expected = expected._replace(generation=state.generation)
            return None
        by = ", ".join(dict.fromkeys(map(str, culprits))) or ("too many at once to know them" if lost else "an unknown process")
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"{'; '.join(found[:3])}{more}; changed by {by}"

    async def _restore_elements(self, expected: TableState, state: TableState, sets: IsolatedSets) -> bool:
        """Whether nothing but the elements of isolated sets differed, and has been put back."""
        monitor = self._open().monitor
        wanted = await asyncio.to_thread(elements_of, sets)  # with many thousands of addresses it takes a moment
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
        await asyncio.to_thread(self._commit, change_elements(present, wanted))
        self._expected = TableState(state.generation, expected.objects, {**others, **wanted})
        self._in_force = sets
        monitor.forget(state.generation)
        return True

    async def _change_elements(self, expected: TableState, sets: IsolatedSets) -> None:
        self._in_force = None
        wanted = await asyncio.to_thread(elements_of, sets)
        requests = change_elements({set_name: expected.elements[set_name] for set_name in wanted}, wanted)
        if requests:
            await asyncio.to_thread(self._commit, requests)
        self._expected = expected._replace(elements={**expected.elements, **wanted})
        self._in_force = sets

    async def _install(self, sets: IsolatedSets) -> None:
        """Install until what is read back is what this object wrote and nothing that others wrote meanwhile."""
        self._in_force = self._expected = None
        monitor = self._open().monitor
        touches: list[Change] = []
        wanted = await asyncio.to_thread(elements_of, sets)
        for _ in range(_MAX_READ_BACKS):
            started = await asyncio.to_thread(_read_generation)
            await self._write(sets)
            state = await asyncio.to_thread(_read_state, self._known_elements)
            finished = await asyncio.to_thread(_read_generation)
            await self._hear_up_to(monitor, finished)
            lost, monitor.has_lost_some = monitor.has_lost_some, False
            # The one change that a socket of ours did not make is that of nft.
            touches = [change for change in monitor.changes if is_later(change.generation, started)]
            if not lost and len(touches) == 1 and wanted.items() <= state.elements.items():
                monitor.forget(finished)
                self._expected = state._replace(generation=finished)
                self._in_force = sets
                return
        others = ", ".join(dict.fromkeys(str(change) for change in touches[:-1])) or "an unknown process"
        raise RulesetError(f"other processes change table inet {TABLE} while it is installed: {others}")

    async def _write(self, sets: IsolatedSets) -> None:
        try:
            await asyncio.to_thread(self._commit, replace_queue_rule(self._config))
            known = {chain.name for chain in chains(self._config)} | {ENQUEUE}
            found = await asyncio.to_thread(_read_chains)
            stale = found.keys() - known
            # A base chain of others that is emptied must not drop everything at its end.
            harmless = "".join(f"add chain inet {TABLE} {name} {{ policy accept; }}\n" for name in sorted(stale) if found[name])
            await self._nft(render(self._config, sets, stale_chains=stale) + harmless)
        except NftTimeoutError:
            raise
        except RulesetError as refused:
            await self._write_over(sets, refused)

    async def _write_over(self, sets: IsolatedSets, refused: RulesetError) -> None:
        """Remove the table and make it again, in one transaction: others have made something under our names that cannot be changed.

        Packets that wait for a verdict are dropped. Until the queue rule follows, its chain is empty: packets that would be queued count
        as unjudged.
        """
        table = f"table inet {TABLE}"
        afresh = "\n".join((f"add {table}", f"delete {table}", f"add {table}", f"add chain inet {TABLE} {ENQUEUE}", ""))
        try:
            await self._nft(afresh + render(self._config, sets, stale_chains=frozenset()))
        except NftTimeoutError:
            raise
        except RulesetError:
            raise refused from None
        await asyncio.to_thread(self._commit, replace_queue_rule(self._config))

    async def _nft(self, script: str) -> None:
        try:
            await run_nft(script, self._nft_deadline_s)
        except NftTimeoutError:
            self._nft_deadline_s = min(2 * self._nft_deadline_s, MAX_DEADLINE_S)  # it may be the machine that is slow
            raise
        self._nft_deadline_s = self._usual_nft_deadline_s

    async def _hear_up_to(self, monitor: ChangeMonitor, generation: int) -> None:
        """Wait for the notification of a generation: the kernel sends it just after the change has taken effect."""
        deadline_s = time.monotonic() + _NOTIFICATION_LIMIT_S
        monitor.read()
        while monitor.generation is None or is_later(generation, monitor.generation):
            if monitor.has_lost_some or time.monotonic() > deadline_s:
                monitor.has_lost_some = True
                return
            await asyncio.sleep(0.001)
            monitor.read()

    def _open(self) -> _Sockets:
        """The sockets, from the first installation on: before it there is nothing to be watched."""
        if self._sockets is None:
            with explained():
                self._sockets = _Sockets()
            weakref.finalize(self, self._sockets.close)
            if self._on_change is not None:
                self.watch(self._on_change)
        return self._sockets

    def _commit(self, requests: tuple[Request, ...]) -> None:
        with explained():
            self._open().sets.commit(requests)

    def _commit_to_maps(self, requests: tuple[Request, ...]) -> None:
        with explained():
            (commit if self._sockets is None else self._sockets.maps.commit)(requests)

    def _forget(self, hints: Sequence[Hint] | None) -> bool:
        if hints is not None and len(hints) <= MAX_DECISIONS and self._try_commit_to_maps(forget(hints)):
            return True
        self._try_commit_to_maps(forget_all())
        return False

    def _try_commit_to_maps(self, requests: tuple[Request, ...]) -> bool:
        """Whether all was there to be removed."""
        with explained(), suppress(FileNotFoundError):
            (commit if self._sockets is None else self._sockets.maps.commit)(requests)
            return True
        return False


def _read_notifications(monitor: ChangeMonitor, on_change: Callable[[], None]) -> None:
    monitor.read()
    if monitor.has_news:
        on_change()


async def probe(wanted: Dataplane = Dataplane.AUTO) -> Dataplane:
    """The form of the queue rule to use: the wanted one, or with AUTO the first that this kernel takes. Changes nothing.

    Raises `PrivilegeError` without CAP_NET_ADMIN, `KernelError` without nft or where the kernel lacks what is asked for.
    """
    candidates = (Dataplane.NATIVE, Dataplane.COMPAT) if wanted is Dataplane.AUTO else (wanted,)
    require_supported_kernel()
    form = await asyncio.to_thread(_first_accepted, candidates)
    try:
        await run_nft("", MAX_DEADLINE_S)
        await run_nft(_NEEDED, MAX_DEADLINE_S, check_only=True)
    except NftTimeoutError as error:
        raise KernelError(str(error)) from error
    except RulesetError as error:
        raise KernelError(
            f"this kernel lacks connection labels (CONFIG_NF_CONNTRACK_LABELS) or the nftables module nft_ct or nft_fib_inet: {error}"
        ) from error
    if form is None:
        modules = {Dataplane.NATIVE: "nft_queue", Dataplane.COMPAT: "nft_compat and xt_NFQUEUE"}
        lacking = " or ".join(modules[candidate] for candidate in candidates)
        raise KernelError(
            f"this kernel cannot queue packets from nftables (dataplane {wanted}): load or build nf_tables, nfnetlink_queue and {lacking}"
        )
    return form


def cleanup(ct_label: int | None = None) -> list[str]:
    """Remove the table, and a hold, and forget which connections were accepted; returns a line for each thing removed. May be repeated.

    Packets that wait for a verdict are dropped. `ct_label`: the first bit of labels that the agent used; None: leave connections alone. The
    accepted bit is cleared so that an agent installed later judges these connections by the policies of its own day.
    Blocks. Raises `PrivilegeError` or `RulesetError`.
    """
    removed = []
    removed += [f"nftables table inet {table}" for table in (TABLE, hold_ruleset.TABLE) if remove_table(table)]
    removed += [f"nftables table bridge {TABLE}"] if bridge_guard.remove() else []
    if ct_label is not None:
        with explained():
            forgotten = clear_accepted(ct_label + ConnectionLabel.ACCEPTED).cleared
        if forgotten:
            removed.append(f"accepted bit of the label of {forgotten} tracked connection{'s' if forgotten > 1 else ''}")
    return removed


def remove_table(table: str) -> bool:
    """Remove an inet table in one transaction. Returns whether it was there. Blocks. Raises `PrivilegeError` or `RulesetError`."""
    with explained():
        return nftables.remove_table(table)


def _first_accepted(candidates: tuple[Dataplane, ...]) -> Dataplane | None:
    for form in candidates:
        try:
            dry_run(try_queue_rule(form))
        except PermissionError as error:
            raise missing_privilege() from error
        except OSError:
            continue
        return form
    return None


def _read_state(known: KnownElements) -> TableState:
    with explained():
        return read_state(known)


def _read_chains() -> dict[str, bool]:
    with explained():
        return read_chains()


def _read_generation() -> int:
    with explained(), open_socket() as netlink:
        return read_generation(netlink)


def _read_chain_uses() -> dict[str, int]:
    with explained():
        return read_chain_uses(TABLE)


def _read_counters() -> dict[str, int]:
    with explained():
        return read_counters()
