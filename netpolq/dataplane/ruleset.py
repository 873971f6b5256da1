"""Renderer of the nftables table `inet netpolq` as text, except the rules of its chains `enqueue` and `enqueue_names`.

The table contains no policy: it selects the packets that concern an isolated local pod, queues them for evaluation, and records the
acceptance. With the verdict cache it also contains decisions that were made more than once lately, in maps that
`netpolq.dataplane.verdict_maps` fills, and looks packets up there before it queues them.
The state of a connection is in its conntrack label, of which this table uses seven adjacent bits (`ConnectionLabel`). The table neither
reads nor writes the connection mark. The packet mark belongs to other software: three of its bits (`PacketMark`) carry the state of a
packet from the rule that queues it to the chain behind the queue, which restores their former value. No other packet has its mark changed,
and no mark of other software counts as a state: the chain behind the queue handles only packets that must have been queued.

The node's own packets are those without an input interface in the postrouting hook (`chains.own_or_bridged`).

Every script rendered here follows these rules:
- It is one transaction and idempotent. It neither deletes the table or a base chain nor flushes the whole table: each of these makes the
  kernel drop the packets that are waiting for a verdict.
- It does not touch the rules that queue packets, which `netpolq.dataplane.queue_rule` replaces in a transaction of its own.
- A set or base chain whose definition changes between versions gets a new name, because the kernel cannot redefine one. The script
  flushes chains that an earlier version left behind (`stale_chains`). They stay, without effect, until `netpolq cleanup`.
"""

from collections.abc import Iterable, Iterator

from netpolq.dataplane.cache_counts import CacheCounts
from netpolq.dataplane.chains import chains
from netpolq.dataplane.original_chains import original_maps
from netpolq.dataplane.ruleset_config import IsolatedSets, RulesetConfig, set_size, set_type
from netpolq.dataplane.ruleset_names import (
    CACHE_ACCEPTS,
    CACHE_LOOKUPS,
    CACHE_MISSES,
    ENQUEUE,
    SPOOFED,
    TABLE,
    UNJUDGED,
    queue_chains,
    verdict_maps,
)

__all__ = [
    "CACHE_ACCEPTS",
    "CACHE_LOOKUPS",
    "CACHE_MISSES",
    "ENQUEUE",
    "SPOOFED",
    "TABLE",
    "UNJUDGED",
    "CacheCounts",
    "IsolatedSets",
    "RulesetConfig",
    "chains",
    "render",
]


def render(config: RulesetConfig, sets: IsolatedSets, *, stale_chains: Iterable[str] = ()) -> str:
    """The script for `nft -f -` that installs everything but the queue rule, whatever the state of the table.

    `stale_chains`: chains of the table that this version does not define.
    """
    return "".join(f"{line}\n" for line in _lines(config, sets, stale_chains))


def _lines(config: RulesetConfig, sets: IsolatedSets, stale_chains: Iterable[str]) -> Iterator[str]:
    elements = sets.by_set_name()
    wanted = chains(config)
    yield f"add table inet {TABLE}"
    yield from (f"add chain inet {TABLE} {name}" for name in queue_chains(config.dns_queue))
    yield from (f"add counter inet {TABLE} {name}" for name in (UNJUDGED, SPOOFED))
    if config.verdict_cache:
        # Emptied, because the policies by which an earlier agent decided are unknown.
        yield from (f"add counter inet {TABLE} {name}" for name in (CACHE_LOOKUPS, CACHE_MISSES, CACHE_ACCEPTS))
        maps = verdict_maps(are_counted=config.counts_verdicts)
        count = " counter;" if config.counts_verdicts else ""
        for name, address in ((maps.verdicts_v4, "ipv4_addr"), (maps.verdicts_v6, "ipv6_addr")):
            key = f"type {address} . {address} . inet_proto . inet_service"
            yield f"add map inet {TABLE} {name} {{ {key} : verdict; flags timeout;{count} }}"
            yield f"flush map inet {TABLE} {name}"
        for name, address in ((maps.closed_v4, "ipv4_addr"), (maps.closed_v6, "ipv6_addr")):
            yield f"add set inet {TABLE} {name} {{ type {address} . {address} . inet_proto; flags timeout;{count} }}"
            yield f"flush set inet {TABLE} {name}"
    yield from (f"add map inet {TABLE} {definition}" for definition in original_maps(config))
    for name in elements:
        size = set_size(name)
        yield f"add set inet {TABLE} {name} {{ type {set_type(name)};{f' size {size};' if size else ''} }}"
    for chain in wanted:
        yield f"add chain inet {TABLE} {chain.name}{chain.hook}"
    for name in [*(chain.name for chain in wanted), *sorted(stale_chains)]:
        yield f"flush chain inet {TABLE} {name}"
    for name, addresses in elements.items():
        yield f"flush set inet {TABLE} {name}"
        if addresses:
            yield _element("add", name, addresses)
    for chain in wanted:
        for rule in chain.rules:
            yield f"add rule inet {TABLE} {chain.name} {rule}"


def _element(verb: str, name: str, addresses: frozenset[str]) -> str:
    return f"{verb} element inet {TABLE} {name} {{ {', '.join(sorted(addresses))} }}"
