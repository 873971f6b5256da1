"""Puts the ruleset into the kernel and keeps it there. The only module that changes nf_tables.

Nothing here deletes or flushes a table or a base chain while packets may be waiting for a verdict, save `cleanup`.
"""

import asyncio
import errno

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from netpolq.channel import Hint
from netpolq.dataplane.conntrack import clear_accepted
from netpolq.dataplane.nf_tables import NFT_MSG_DELTABLE, Request, commit, name, rehearse
from netpolq.dataplane.presence import Presence, read_counters, read_presence
from netpolq.dataplane.queue_rule import replace_queue_rule, try_queue_rule
from netpolq.dataplane.ruleset import ENQUEUE, TABLE, IsolatedSets, RulesetConfig, chains, render, render_changes
from netpolq.dataplane.verdict_maps import MAX_DECISIONS, forget, forget_all, remember
from netpolq.enums import Dataplane
from netpolq.errors import KernelError, NetpolqError, PrivilegeError
from netpolq.hold import ruleset as hold_ruleset
from netpolq.hold.ranges import PodRange

_NFTA_TABLE_NAME = 1
_NFT_DEADLINE_S = 60


class RulesetError(NetpolqError):
    """The kernel did not take a change of the ruleset; what was in force still is."""


class Ruleset:
    """The table `inet netpolq` of this network namespace. Calls may overlap: they take turns.

    Every method may raise `PrivilegeError` or `RulesetError`.
    """

    def __init__(self, config: RulesetConfig) -> None:
        self._config = config
        self._in_force: IsolatedSets | None = None  # None: unknown, so that the next change puts everything in place again
        self._expected: Presence | None = None
        self._turn = asyncio.Lock()

    async def install(self, sets: IsolatedSets) -> None:
        """Put the whole ruleset in place, over nothing or over whatever an earlier agent left.

        The queue rule comes first: the chains that jump to it never find it missing.
        """
        async with self._turn:
            await self._install(sets)

    async def update(self, sets: IsolatedSets) -> None:
        """Change the sets to these. After any failure, and before the first `install`, this installs everything."""
        async with self._turn:
            before = self._in_force
            if before is None:
                await self._install(sets)
                return
            script = render_changes(before, sets)
            if script:
                self._in_force = None
                await _nft(script)
                self._in_force = sets

    async def remember_verdicts(self, hints: Sequence[Hint], ttl_ms: int) -> None:
        """Put at most `MAX_DECISIONS` decisions into the maps, in one transaction. Needs `install` before."""
        async with self._turn:
            await asyncio.to_thread(_commit, remember(hints, ttl_ms))

    async def forget_verdicts(self, hints: Sequence[Hint] | None) -> bool:
        """Take decisions out of the maps, in one transaction; None: all. Returns whether any others may be left.

        What has timed out cannot be taken out by itself, and more than `MAX_DECISIONS` do not fit into one transaction: then the maps
        are emptied. A table that is gone holds nothing to forget.
        """
        async with self._turn:
            return await asyncio.to_thread(_forget, hints)

    async def in_place(self) -> bool:
        """Whether all chains with their rules, and the sets, are as this object left them. Elements of the sets are not compared."""
        async with self._turn:
            return self._expected is not None and await asyncio.to_thread(_read_presence) == self._expected

    async def has_rules(self) -> bool:
        """Whether the table has rules beside the queue rule, of whichever version: left by an earlier agent, or of one that runs now."""
        present = await asyncio.to_thread(_read_presence)
        return any(use for chain, use in present.chains.items() if chain != ENQUEUE)

    async def counters(self) -> Mapping[str, int]:
        """Packets by named counter; empty while there is no table."""
        return await asyncio.to_thread(_read_counters)

    async def _install(self, sets: IsolatedSets) -> None:
        self._in_force = self._expected = None
        await asyncio.to_thread(_commit, replace_queue_rule(self._config))
        known = {chain.name for chain in chains(self._config)} | {ENQUEUE}
        present = await asyncio.to_thread(_read_presence)
        await _nft(render(self._config, sets, stale_chains=present.chains.keys() - known))
        self._expected = await asyncio.to_thread(_read_presence)
        self._in_force = sets


class HoldTable:
    """The table `inet netpolq_hold` of this network namespace. Every method may raise `PrivilegeError` or `RulesetError`."""

    async def is_present(self) -> bool:
        """Whether the table is there with chains in it."""
        return bool((await asyncio.to_thread(_read_presence, hold_ruleset.TABLE)).chains)

    async def install(self, ranges: Iterable[PodRange], *, ct_mark_bit: int) -> None:
        """Drop the traffic of pods in these ranges from now on."""
        await _nft(hold_ruleset.render(ranges, ct_mark_bit=ct_mark_bit))

    async def remove(self) -> bool:
        """Remove the table in one transaction. Returns whether it was there."""
        return await asyncio.to_thread(_remove_table, hold_ruleset.TABLE)


async def probe(wanted: Dataplane = Dataplane.AUTO) -> Dataplane:
    """The form of the queue rule to use: the wanted one, or with AUTO the first that this kernel takes. Changes nothing.

    Raises `PrivilegeError` without CAP_NET_ADMIN, `KernelError` without nft or where the kernel lacks what is asked for.
    """
    candidates = (Dataplane.NATIVE, Dataplane.COMPAT) if wanted is Dataplane.AUTO else (wanted,)
    form = await asyncio.to_thread(_first_accepted, candidates)
    await _nft("")
    if form is None:
        modules = {Dataplane.NATIVE: "nft_queue", Dataplane.COMPAT: "nft_compat and xt_NFQUEUE"}
        lacking = " or ".join(modules[candidate] for candidate in candidates)
        raise KernelError(
            f"this kernel cannot queue packets from nftables (dataplane {wanted}): load or build nf_tables, nfnetlink_queue and {lacking}"
        )
    return form


def cleanup(ct_mark_bit: int = 0) -> list[str]:
    """Remove the table, and a hold, and forget which connections were accepted; returns a line for each thing removed. May be repeated.

    Packets that wait for a verdict are dropped. `ct_mark_bit`: the bit that the agent used, 0 to leave connections alone. It is cleared
    so that an agent installed later judges these connections by the policies of its own day.
    Blocks. Raises `PrivilegeError` or `RulesetError`.
    """
    removed = []
    removed += [f"nftables table inet {table}" for table in (TABLE, hold_ruleset.TABLE) if _remove_table(table)]
    if ct_mark_bit:
        with _explained():
            forgotten = clear_accepted(ct_mark_bit).cleared
        if forgotten:
            removed.append(f"accepted bit {ct_mark_bit:#x} of {forgotten} tracked connection{'s' if forgotten > 1 else ''}")
    return removed


def _remove_table(table: str) -> bool:
    with _explained(), suppress(FileNotFoundError):
        commit([Request(NFT_MSG_DELTABLE, (name(_NFTA_TABLE_NAME, table),))])
        return True
    return False


def _first_accepted(candidates: tuple[Dataplane, ...]) -> Dataplane | None:
    for form in candidates:
        try:
            rehearse(try_queue_rule(form))
        except PermissionError as error:
            raise _missing_privilege() from error
        except OSError:
            continue
        return form
    return None


def _commit(requests: tuple[Request, ...]) -> None:
    with _explained():
        commit(requests)


def _forget(hints: Sequence[Hint] | None) -> bool:
    with _explained():
        if hints is not None and len(hints) <= MAX_DECISIONS:
            with suppress(FileNotFoundError):
                commit(forget(hints))
                return True
        with suppress(FileNotFoundError):
            commit(forget_all())
    return False


def _read_presence(table: str = TABLE) -> Presence:
    with _explained():
        return read_presence(table)


def _read_counters() -> dict[str, int]:
    with _explained():
        return read_counters()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the kernel's refusals into errors for the operator."""
    try:
        yield
    except PermissionError as error:
        raise _missing_privilege() from error
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "no answer")
        raise RulesetError(f"the kernel refused a netfilter request: {reason}: {error.strerror or error}") from error


def _missing_privilege() -> PrivilegeError:
    return PrivilegeError("changing the ruleset needs CAP_NET_ADMIN in this network namespace: run as root or add the capability")


async def _nft(script: str) -> None:
    """Apply a script as one transaction; an empty one only shows that nft is there."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            "-f",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise KernelError("the program nft is not installed: install the package nftables") from error
    try:
        async with asyncio.timeout(_NFT_DEADLINE_S):
            _, complaint = await process.communicate(script.encode())
    except TimeoutError as error:
        raise RulesetError(f"nft gave no answer within {_NFT_DEADLINE_S} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RulesetError(f"nft refused the ruleset: {' '.join(complaint.decode(errors='replace').split())[:500]}")
