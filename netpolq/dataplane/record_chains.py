"""Chains behind the queue: they record acceptances, count and handle packets without a verdict, and restore the packet mark."""

from collections.abc import Iterator

from netpolq.dataplane.names_chains import (
    DNS_PROTOCOLS,
    IS_QUERY,
    IS_RESPONSE,
    names_rules,
    own_responses,
    pass_evaluated,
    returned_names_chains,
)
from netpolq.dataplane.rule_terms import NEIGHBOUR_DISCOVERY, Chain, MarkStatements, isolated_matches
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import UNJUDGED
from netpolq.dataplane.unknown_chains import has_unknown, unknown_untracked
from netpolq.enums import NodeEgress, PacketMark


def record_chains(config: RulesetConfig, marks: MarkStatements) -> Iterator[Chain]:
    """Chains behind the queue, for packets whose bits of the mark are not all zero.

    A packet was queued if the chains before the queue select it: its connection is not accepted, it is not the node's own, and it concerns
    an isolated pod. All others pass unchanged: their bits belong to other software. A packet with an unknown address was queued, too;
    what says so is the label, because the address may be known by now, and the pod not isolated.
    """
    yield Chain("restore_field", "", tuple(f"ct label {label} meta mark set meta mark | {bit}" for bit, label in marks.kept))
    put_back = (marks.clear, f"ct label {','.join(str(label) for _bit, label in marks.kept)} goto restore_field")
    yield Chain("returned_accepted", "", (marks.accept_connection, *put_back))
    yield Chain(
        "returned",
        "",
        (
            f"{marks.equals(PacketMark.ACCEPTED)} goto returned_accepted",
            f"counter name {UNJUDGED}" + ("" if config.fail_open else " drop"),
            *put_back,
        ),
    )
    yield from returned_names_chains(config, marks, put_back)
    queries = names_rules(config, IS_QUERY, "returned_names")
    held, untracked = _held(config, marks), unknown_untracked(config)
    before = {
        "original": (*pass_evaluated(config, marks), *queries, *held),
        "to_node": (*queries, *held),
        "reply": names_rules(config, IS_RESPONSE, "returned_names"),
    }
    for direction in ("original", "reply", *(["to_node"] if config.node_egress is NodeEgress.JUDGE else [])):
        isolated = isolated_matches(direction)
        v4, v6 = (
            tuple(f"{match} goto returned" for match in (*(untracked[family] if direction != "reply" else ()), *isolated[family]))
            for family in ("v4", "v6")
        )
        yield Chain(f"record_{direction}", "", (*before[direction], *v4, NEIGHBOUR_DISCOVERY, *v6))
    if config.node_egress is NodeEgress.ALLOW and config.dns_queue is not None:
        yield Chain("record_to_node", "", queries)
    own, own_chains = own_responses(config, "record_", "returned_names")
    yield from own_chains
    to_pods = (f"{marks.connection_is_accepted} accept", f"iif 0 jump {own}", "ct direction reply goto record_reply")
    yield Chain("record", "", (*to_pods, "goto record_original"))


def _held(config: RulesetConfig, marks: MarkStatements) -> tuple[str, ...]:
    """Rules for first packets that were queued because an address was unknown. Replies are not new, nor is what follows them.

    A one-way connection stays new. If it passed without a verdict in fail-open, its later packets come here with bits of other software
    once the address is known, and these count as a state.
    """
    if not has_unknown(config):
        return ()
    return (*held_queries(config, marks), f"{marks.first_was_held} goto returned")


def held_queries(config: RulesetConfig, marks: MarkStatements) -> tuple[str, ...]:
    """The rule for held packets to port 53: none with it becomes accepted, because the kernel may learn later that its pod asks."""
    if config.dns_queue is None or not has_unknown(config):
        return ()
    return (f"{IS_QUERY} {DNS_PROTOCOLS} {marks.first_was_held} goto returned_names",)
