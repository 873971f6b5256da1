"""The nftables ruleset as text: pure rendering of the table `inet netpolq`, except the one rule of its chain `enqueue`.

The table holds no policy: it finds the packets that concern an isolated local pod, has them judged, and remembers the acceptance.
With the verdict cache it also holds decisions that were made more than once lately, in two maps that somebody else fills
(`netpolq.dataplane.verdict_maps`), and asks these before the workers.
What a connection remembers stands in its conntrack label, of which this table has five adjacent bits (`ConnectionLabel`); the connection
mark is neither read nor written. The packet mark belongs to other software: three of its bits (`PacketMark`) carry the state of a packet
from the rule that queues it to the chain behind the queue, which puts back what stood in them. No other packet has its mark changed, and
no value of a mark that other software sets is ever taken for a state: the chain behind the queue looks only at packets that must have been
queued.

The node's own packets are those without an input interface in the postrouting hook (`_own_or_bridged`).

Rules that hold for every script rendered here:
- it is one transaction, may be applied any number of times, and neither deletes the table or a base chain nor flushes the whole
  table: each of these makes the kernel drop the packets that are waiting for a verdict;
- it does not touch the rule of `enqueue`, which `netpolq.dataplane.queue_rule` replaces in a transaction of its own;
- a set or base chain whose definition changes between versions gets a new name, for the kernel cannot redefine one. Chains that an
  earlier version left behind are emptied (`stale_chains`) and stay, without effect, until `netpolq cleanup`.
"""

from collections.abc import Iterable, Iterator

from netpolq.dataplane.cache_counts import CacheCounts
from netpolq.dataplane.chains import chains
from netpolq.dataplane.ruleset_config import IsolatedSets, RulesetConfig, set_type
from netpolq.dataplane.ruleset_names import (
    CACHE_ACCEPTS,
    CACHE_LOOKUPS,
    CACHE_MISSES,
    CLOSED_V4,
    CLOSED_V6,
    ENQUEUE,
    SPOOFED,
    TABLE,
    UNJUDGED,
    VERDICTS_V4,
    VERDICTS_V6,
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
    """The script for `nft -f -` that puts everything but the queue rule in place, from whatever state.

    `stale_chains`: chains found in the table that this version does not know.
    """
    return "".join(f"{line}\n" for line in _lines(config, sets, stale_chains))


def _lines(config: RulesetConfig, sets: IsolatedSets, stale_chains: Iterable[str]) -> Iterator[str]:
    elements = sets.by_set_name()
    wanted = chains(config)
    yield f"add table inet {TABLE}"
    yield f"add chain inet {TABLE} {ENQUEUE}"
    yield from (f"add counter inet {TABLE} {name}" for name in (UNJUDGED, SPOOFED))
    if config.verdict_cache:
        # Emptied, because nobody knows any more by which policies an earlier agent decided.
        yield from (f"add counter inet {TABLE} {name}" for name in (CACHE_LOOKUPS, CACHE_MISSES, CACHE_ACCEPTS))
        for name, address in ((VERDICTS_V4, "ipv4_addr"), (VERDICTS_V6, "ipv6_addr")):
            yield f"add map inet {TABLE} {name} {{ type {address} . {address} . inet_proto . inet_service : verdict; flags timeout; }}"
            yield f"flush map inet {TABLE} {name}"
        for name, address in ((CLOSED_V4, "ipv4_addr"), (CLOSED_V6, "ipv6_addr")):
            yield f"add set inet {TABLE} {name} {{ type {address} . {address} . inet_proto; flags timeout; }}"
            yield f"flush set inet {TABLE} {name}"
    for name in elements:
        yield f"add set inet {TABLE} {name} {{ type {set_type(name)}; }}"
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
