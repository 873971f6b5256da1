"""Chains before the queue: they select the packets that are evaluated, and look them up in the verdict maps or queue them."""

from collections.abc import Iterator

from netpolq.dataplane.rule_terms import NEIGHBOUR_DISCOVERY, Chain, MarkStatements, isolated_matches
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import (
    CACHE_ACCEPTS,
    CACHE_LOOKUPS,
    CACHE_MISSES,
    CLOSED_V4,
    CLOSED_V6,
    ENQUEUE,
    VERDICTS_V4,
    VERDICTS_V6,
)
from netpolq.enums import NodeEgress, PacketMark


def evaluate_in(config: RulesetConfig, marks: MarkStatements, chain: str) -> tuple[str, ...]:
    """The last rules of a chain: evaluation in another chain, which returns only packets that the verdict cache accepts."""
    if not config.verdict_cache:
        return (f"goto {chain}",)
    return f"jump {chain}", f"counter name {CACHE_ACCEPTS} {marks.accept_connection}"


def evaluation_chains(config: RulesetConfig, marks: MarkStatements) -> Iterator[Chain]:
    """Chains that select the packets to evaluate and pass them to the verdict maps, then to the workers.

    The maps contain connections in their original direction. An element's verdict is `drop` or `return`, never a jump: the use counts of
    chains to which elements jump would change with the elements, so they would not show any more whether all rules are present. `return`
    leads back to the rule that accepts, behind the jump to the first of these chains. So no other packet may reach the end of its chain.

    The maps contain only TCP, UDP and SCTP, so they need no test of the protocol: the bytes that other protocols have at the offset of a
    port are never found. Later fragments are not found either: for nftables they have no transport header.
    """
    keep_field = f"{marks.is_set} jump keep_field"
    yield Chain("keep_field", "", tuple(f"meta mark & {bit} == {bit} ct label set {label}" for bit, label in marks.kept))
    yield Chain("pending_original", "", (keep_field, marks.put(PacketMark.PENDING_ORIGINAL), f"jump {ENQUEUE}", "accept"))
    yield Chain("pending_reply", "", (keep_field, marks.put(PacketMark.PENDING_REPLY), f"jump {ENQUEUE}", "accept"))
    targets = {"v4": "goto pending_original", "v6": "goto pending_original"}
    if config.verdict_cache:
        for family, address, verdicts, closed in (("v4", "ip", VERDICTS_V4, CLOSED_V4), ("v6", "ip6", VERDICTS_V6, CLOSED_V6)):
            pair = f"{address} saddr . {address} daddr . meta l4proto"
            look_up = f"counter name {CACHE_LOOKUPS} {pair} . th dport vmap @{verdicts}"
            misses = f"counter name {CACHE_MISSES} goto pending_original"
            yield Chain(f"remembered_{family}", "", (look_up, f"{pair} @{closed} drop", misses))
            targets[family] = f"goto remembered_{family}"
    original, reply = isolated_matches("original"), isolated_matches("reply")
    v4, v6 = (tuple(f"{match} {targets[family]}" for match in original[family]) for family in ("v4", "v6"))
    yield Chain("original_v6", "", (NEIGHBOUR_DISCOVERY, *v6, "accept"))
    yield Chain("original", "", ("meta nfproto ipv6 goto original_v6", *v4, "accept"))
    if config.node_egress is NodeEgress.JUDGE:
        v4, v6 = (tuple(f"{match} {targets[family]}" for match in isolated_matches("to_node")[family]) for family in ("v4", "v6"))
        yield Chain("to_node", "", (*v4, NEIGHBOUR_DISCOVERY, *v6, "accept"))
    yield Chain("reply", "", tuple(f"{match} goto pending_reply" for match in (*reply["v4"], *reply["v6"])))
