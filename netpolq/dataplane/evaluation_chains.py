"""Chains before the queue: they select the packets that are evaluated, and look them up in the verdict maps or queue them."""

from collections.abc import Iterator

from netpolq.dataplane.names_chains import IS_QUERY, names_chains, names_rules, names_targets
from netpolq.dataplane.original_chains import note_original, original_chains
from netpolq.dataplane.rule_terms import NEIGHBOUR_DISCOVERY, Chain, MarkStatements, isolated_matches
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import (
    CACHE_ACCEPTS,
    CACHE_LOOKUPS,
    CACHE_MISSES,
    ENQUEUE,
    verdict_maps,
)
from netpolq.dataplane.unknown_chains import unknown_chains, unknown_rules, unknown_source_rules
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
    yield from original_chains(config)
    pending = (keep_field, marks.put(PacketMark.PENDING_ORIGINAL), f"jump {ENQUEUE}", "accept")
    yield Chain("pending_original", "", (*note_original(config), *pending))
    yield Chain("pending_reply", "", (keep_field, marks.put(PacketMark.PENDING_REPLY), f"jump {ENQUEUE}", "accept"))
    targets = {"v4": "pending_original", "v6": "pending_original"}
    if config.verdict_cache:
        maps = verdict_maps(are_counted=config.counts_verdicts)
        for family, address, verdicts, closed in (
            ("v4", "ip", maps.verdicts_v4, maps.closed_v4),
            ("v6", "ip6", maps.verdicts_v6, maps.closed_v6),
        ):
            pair = f"{address} saddr . {address} daddr . meta l4proto"
            look_up = f"counter name {CACHE_LOOKUPS} {pair} . th dport vmap @{verdicts}"
            misses = f"counter name {CACHE_MISSES} goto pending_original"
            yield Chain(f"remembered_{family}", "", (look_up, f"{pair} @{closed} drop", misses))
            targets[family] = f"remembered_{family}"
    replies = dict.fromkeys(targets, "pending_reply")
    yield from names_chains(config, marks, targets, replies)
    yield from unknown_chains(config, marks)
    queries, responses = names_targets(config, "query", targets), names_targets(config, "response", replies)
    new = unknown_rules(config)
    v4, v6 = (_selected(config, "original", family, targets, queries) for family in targets)
    yield Chain("original_v6", "", (NEIGHBOUR_DISCOVERY, *new["v6"], *v6, "accept"))
    yield Chain("original", "", ("meta nfproto ipv6 goto original_v6", *new["v4"], *v4, "accept"))
    if config.node_egress is NodeEgress.JUDGE:
        new = unknown_source_rules(config)
        v4, v6 = (_selected(config, "to_node", family, targets, queries) for family in targets)
        yield Chain("to_node", "", (*new["v4"], *v4, NEIGHBOUR_DISCOVERY, *new["v6"], *v6, "accept"))
    elif config.dns_queue is not None:
        yield Chain("to_node", "", ("ct direction reply accept", *names_rules(config, IS_QUERY, "pending_names")))
    v4, v6 = (_selected(config, "reply", family, replies, responses) for family in targets)
    yield Chain("reply", "", (*v4, *v6))


def _selected(
    config: RulesetConfig, direction: str, family: str, targets: dict[str, str], names: dict[str, str]
) -> tuple[str, ...]:
    """Rules that lead packets of isolated pods to `targets`, those of pods isolated for egress to `names`.

    With a DNS queue the latter come first: a DNS server that is isolated for ingress hides no message from the reader.
    """
    *ingress, egress = isolated_matches(direction)[family]
    rules = (*(f"{match} goto {targets[family]}" for match in ingress), f"{egress} goto {names[family]}")
    return rules if config.dns_queue is None else rules[::-1]
