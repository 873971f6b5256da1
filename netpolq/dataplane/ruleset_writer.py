"""Writes the whole table `inet netpolq`: the queue rules by netlink, everything else by the program `nft`."""

import asyncio

from netpolq.dataplane.kernel_errors import RulesetError
from netpolq.dataplane.nft_program import MAX_DEADLINE_S, NftTimeoutError, run_nft
from netpolq.dataplane.original_chains import original_rules
from netpolq.dataplane.queue_rule import replace_queue_rule
from netpolq.dataplane.ruleset import chains, render
from netpolq.dataplane.ruleset_config import IsolatedSets, RulesetConfig
from netpolq.dataplane.ruleset_names import TABLE, queue_chains
from netpolq.dataplane.ruleset_reads import read_chains
from netpolq.dataplane.ruleset_sockets import RulesetSockets


class RulesetWriter:
    """Writes the table. Not for concurrent use. Methods may raise `PrivilegeError` or `RulesetError`."""

    def __init__(self, sockets: RulesetSockets, *, nft_deadline_s: float) -> None:
        """`nft_deadline_s`: for runs of `nft` after the first successful one."""
        self._sockets = sockets
        self._usual_nft_deadline_s = nft_deadline_s
        # During the first run the kernel may have to load modules. No policy change that is in force waits for it.
        self._nft_deadline_s = MAX_DEADLINE_S

    async def write(self, config: RulesetConfig, sets: IsolatedSets) -> None:
        """Write the whole table over whatever is there. The queue rules come first: chains that jump to them always find them."""
        try:
            await asyncio.to_thread(self._sockets.commit, replace_queue_rule(config))
            known = {chain.name for chain in chains(config)} | set(queue_chains(config.dns_queue))
            found = await asyncio.to_thread(read_chains)
            stale = found.keys() - known
            # A foreign base chain with policy drop would drop every packet once it is flushed.
            harmless = "".join(f"add chain inet {TABLE} {name} {{ policy accept; }}\n" for name in sorted(stale) if found[name])
            await self._nft(render(config, sets, stale_chains=stale) + harmless)
            await asyncio.to_thread(self._sockets.commit, original_rules(config))
        except NftTimeoutError:
            raise
        except RulesetError as refused:
            await self._replace_table(config, sets, refused)

    async def _replace_table(self, config: RulesetConfig, sets: IsolatedSets, refused: RulesetError) -> None:
        """Remove the table and create it again, in one transaction: it has objects with our names that cannot be redefined.

        The kernel drops the packets that wait for a verdict. Until the queue rules follow, their chains are empty: packets that would be
        queued count as packets without a verdict.
        """
        table = f"table inet {TABLE}"
        afresh = "\n".join((f"add {table}", f"delete {table}", f"add {table}", ""))
        try:
            await self._nft(afresh + render(config, sets, stale_chains=frozenset()))
        except NftTimeoutError:
            raise
        except RulesetError:
            raise refused from None
        await asyncio.to_thread(self._sockets.commit, (*replace_queue_rule(config), *original_rules(config)))

    async def _nft(self, script: str) -> None:
        try:
            await run_nft(script, self._nft_deadline_s)
        except NftTimeoutError:
            self._nft_deadline_s = min(2 * self._nft_deadline_s, MAX_DEADLINE_S)  # the machine may be slow
            raise
        self._nft_deadline_s = self._usual_nft_deadline_s
