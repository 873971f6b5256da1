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


def evaluate_in(config: RulesetConfig, marks: MarkStatements, question: str) -> tuple[str, ...]:
    """The last rules of a chain: go through the chain `question`, from which only what the verdict cache accepts comes back."""
    if not config.verdict_cache:
        return (f"goto {question}",)
    return f"jump {question}", f"counter name {CACHE_ACCEPTS} {marks.accept_connection}"


def evaluation_chains(config: RulesetConfig, marks: MarkStatements) -> Iterator[Chain]:
    """Which packets are evaluated, and where: by the verdict maps, then by the workers.

    Looked up in a map is a connection in its original direction. An element's verdict is `drop` or `return`, never a jump: chains that
    elements jump to would have a use that changes with them, and nobody could tell any more whether their rules are all there. `return`
    leads back to the rule that accepts, behind the jump to the question; so nothing else in here may come to the end of its chain.

    The maps know only TCP, UDP and SCTP, so whatever stands in the place of a port elsewhere is not found in them, without a test of the
    protocol. Nor is a later fragment, which has no transport header for nftables.
    """
    keep_field = f"{marks.is_set} jump keep_field"
    yield Chain("keep_field", "", tuple(f"meta mark & {bit} == {bit} ct label set {label}" for bit, label in marks.kept))
    yield Chain("pending_original", "", (keep_field, marks.put(PacketMark.PENDING_ORIGINAL), f"jump {ENQUEUE}", "accept"))
    yield Chain("pending_reply", "", (keep_field, marks.put(PacketMark.PENDING_REPLY), f"jump {ENQUEUE}", "accept"))
    judge = {"v4": "goto pending_original", "v6": "goto pending_original"}
    if config.verdict_cache:
        for family, address, verdicts, closed in (("v4", "ip", VERDICTS_V4, CLOSED_V4), ("v6", "ip6", VERDICTS_V6, CLOSED_V6)):
            pair = f"{address} saddr . {address} daddr . meta l4proto"
            look_up = f"counter name {CACHE_LOOKUPS} {pair} . th dport vmap @{verdicts}"
            misses = f"counter name {CACHE_MISSES} goto pending_original"
            yield Chain(f"remembered_{family}", "", (look_up, f"{pair} @{closed} drop", misses))
            judge[family] = f"goto remembered_{family}"
    original, reply = isolated_matches("original"), isolated_matches("reply")
    v4, v6 = (tuple(f"{match} {judge[family]}" for match in original[family]) for family in ("v4", "v6"))
    yield Chain("original_v6", "", (NEIGHBOUR_DISCOVERY, *v6, "accept"))
    yield Chain("original", "", ("meta nfproto ipv6 goto original_v6", *v4, "accept"))
    if config.node_egress is NodeEgress.JUDGE:
        v4, v6 = (tuple(f"{match} {judge[family]}" for match in isolated_matches("to_node")[family]) for family in ("v4", "v6"))
        yield Chain("to_node", "", (*v4, NEIGHBOUR_DISCOVERY, *v6, "accept"))
    yield Chain("reply", "", tuple(f"{match} goto pending_reply" for match in (*reply["v4"], *reply["v6"])))
