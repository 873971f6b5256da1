"""Writes the whole table `inet netpolq`: the queue rule by netlink, everything else by the program `nft`."""

import asyncio

from netpolq.dataplane.kernel_errors import RulesetError
from netpolq.dataplane.nft_program import MAX_DEADLINE_S, NftTimeoutError, run_nft
from netpolq.dataplane.queue_rule import replace_queue_rule
from netpolq.dataplane.ruleset import chains, render
from netpolq.dataplane.ruleset_config import IsolatedSets, RulesetConfig
from netpolq.dataplane.ruleset_names import ENQUEUE, TABLE
from netpolq.dataplane.ruleset_reads import read_chains
from netpolq.dataplane.ruleset_sockets import RulesetSockets


class RulesetWriter:
    """Writes the table. Not for concurrent use. Methods may raise `PrivilegeError` or `RulesetError`."""

    def __init__(self, config: RulesetConfig, sockets: RulesetSockets, *, nft_deadline_s: float) -> None:
        """`nft_deadline_s`: for runs of `nft` after the first successful one."""
        self._config = config
        self._sockets = sockets
        self._usual_nft_deadline_s = nft_deadline_s
        # During the first run the kernel may have to load modules. No policy change that is in force waits for it.
        self._nft_deadline_s = MAX_DEADLINE_S

    async def write(self, sets: IsolatedSets) -> None:
        """Write the whole table over whatever is there. The queue rule comes first: chains that jump to it always find it."""
        try:
            await asyncio.to_thread(self._sockets.commit, replace_queue_rule(self._config))
            known = {chain.name for chain in chains(self._config)} | {ENQUEUE}
            found = await asyncio.to_thread(read_chains)
            stale = found.keys() - known
            # A foreign base chain with policy drop would drop every packet once it is flushed.
            harmless = "".join(f"add chain inet {TABLE} {name} {{ policy accept; }}\n" for name in sorted(stale) if found[name])
            await self._nft(render(self._config, sets, stale_chains=stale) + harmless)
        except NftTimeoutError:
            raise
        except RulesetError as refused:
            await self._replace_table(sets, refused)

    async def _replace_table(self, sets: IsolatedSets, refused: RulesetError) -> None:
        """Remove the table and create it again, in one transaction: it has objects with our names that cannot be redefined.

        The kernel drops the packets that wait for a verdict. Until the queue rule follows, its chain is empty: packets that would be
        queued count as packets without a verdict.
        """
        table = f"table inet {TABLE}"
        afresh = "\n".join((f"add {table}", f"delete {table}", f"add {table}", f"add chain inet {TABLE} {ENQUEUE}", ""))
        try:
            await self._nft(afresh + render(self._config, sets, stale_chains=frozenset()))
        except NftTimeoutError:
            raise
        except RulesetError:
            raise refused from None
        await asyncio.to_thread(self._sockets.commit, replace_queue_rule(self._config))

    async def _nft(self, script: str) -> None:
        try:
            await run_nft(script, self._nft_deadline_s)
        except NftTimeoutError:
            self._nft_deadline_s = min(2 * self._nft_deadline_s, MAX_DEADLINE_S)  # the machine may be slow
            raise
        self._nft_deadline_s = self._usual_nft_deadline_s
