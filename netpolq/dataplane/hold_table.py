"""The hold's table in the kernel: reads and changes. `netpolq.hold.ruleset` renders it."""

import asyncio
import ipaddress

from collections.abc import Iterable, Iterator

from netpolq.dataplane.cleanup import remove_table
from netpolq.dataplane.nft_program import run_nft
from netpolq.dataplane.ruleset_reads import read_chain_uses, read_interval_bounds
from netpolq.hold import ruleset
from netpolq.hold.ranges import PodRange, collapse


class HoldTable:
    """The table `inet netpolq_hold` of this network namespace. Every method may raise `PrivilegeError` or `RulesetError`."""

    async def is_present(self) -> bool:
        """Whether the table exists and has chains."""
        return bool(await asyncio.to_thread(read_chain_uses, ruleset.TABLE))

    async def ranges(self) -> tuple[PodRange, ...]:
        """The ranges whose traffic the table drops, in as few blocks as possible; none without the table or its sets."""
        return await asyncio.to_thread(_read_ranges)

    async def install(self, ranges: Iterable[PodRange], *, ct_label: int) -> None:
        """Drop the traffic of pods in these ranges from now on."""
        await run_nft(ruleset.render(ranges, ct_label=ct_label))

    async def change_ranges(self, ranges: Iterable[PodRange]) -> None:
        """Change the ranges of the existing table. Its rules stay: an operator may have added some."""
        await run_nft(ruleset.render_ranges(ranges))

    async def remove(self) -> bool:
        """Remove the table in one transaction. Returns whether it existed."""
        return await asyncio.to_thread(remove_table, ruleset.TABLE)


def _read_ranges() -> tuple[PodRange, ...]:
    bounds = [read_interval_bounds(ruleset.TABLE, set_name) for set_name in ruleset.SETS.values()]
    return collapse(block for one in bounds for block in _blocks(one))


def _blocks(bounds: Iterable[tuple[bytes, bool]]) -> Iterator[PodRange]:
    """The blocks of the intervals of one set."""
    first: bytes | None = None
    for key, is_end in bounds:
        if first is not None:
            yield from _summarized(first, (int.from_bytes(key, "big") - 1).to_bytes(len(key), "big"))
        first = None if is_end else key
    if first is not None:
        yield from _summarized(first, b"\xff" * len(first))


def _summarized(first: bytes, last: bytes) -> Iterator[PodRange]:
    """The blocks from one address to another of the same family."""
    if len(first) == 4:
        return ipaddress.summarize_address_range(ipaddress.IPv4Address(first), ipaddress.IPv4Address(last))
    return ipaddress.summarize_address_range(ipaddress.IPv6Address(first), ipaddress.IPv6Address(last))
