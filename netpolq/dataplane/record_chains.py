"""Chains behind the queue: they record acceptances, count and handle packets without a verdict, and restore the packet mark."""

from collections.abc import Iterator

from netpolq.dataplane.rule_terms import NEIGHBOUR_DISCOVERY, Chain, MarkStatements, isolated_matches
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import UNJUDGED
from netpolq.enums import NodeEgress, PacketMark


def record_chains(config: RulesetConfig, marks: MarkStatements) -> Iterator[Chain]:
    """Chains behind the queue, for packets whose bits of the mark are not all zero.

    A packet was queued if the chains before the queue select it: its connection is not accepted, it is not the node's own, and it concerns
    an isolated pod. All others pass unchanged: their bits belong to other software.
    """
    yield Chain("restore_field", "", tuple(f"ct label {label} meta mark set meta mark | {bit}" for bit, label in marks.kept))
    put_back = (marks.clear, f"ct label {','.join(str(label) for _bit, label in marks.kept)} goto restore_field")
    yield Chain("returned_accepted", "", (marks.accept_connection, *put_back))
    yield Chain(
        "returned",
        "",
        (
            f"{marks.equals(PacketMark.ACCEPTED)} goto returned_accepted",
            f"{marks.equals(PacketMark.PENDING_ORIGINAL, PacketMark.PENDING_REPLY)} counter name {UNJUDGED}"
            + ("" if config.fail_open else " drop"),
            *put_back,
        ),
    )
    for direction in ("original", "reply", *(["to_node"] if config.node_egress is NodeEgress.JUDGE else [])):
        isolated = isolated_matches(direction)
        v4, v6 = (tuple(f"{match} goto returned" for match in isolated[family]) for family in ("v4", "v6"))
        yield Chain(f"record_{direction}", "", (*v4, NEIGHBOUR_DISCOVERY, *v6))
    to_pods = (f"{marks.connection_is_accepted} accept", "iif 0 jump own_or_bridged", "ct direction reply goto record_reply")
    yield Chain("record", "", (*to_pods, "goto record_original"))
