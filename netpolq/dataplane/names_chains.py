"""Chains that queue DNS messages of pods with domain names in their policies for the DNS reader, and handle them behind the queue.

The connections of these messages never become accepted, so that the reader sees every query and every response. After the reader a
message passes a worker, so it returns with the state of a worker's verdict.
"""

from collections.abc import Iterator

from netpolq.dataplane.original_chains import note_original
from netpolq.dataplane.rule_terms import HEADERS, Chain, MarkStatements
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import ENQUEUE_NAMES, UNJUDGED
from netpolq.enums import PacketMark

DNS_PROTOCOLS = "meta l4proto { tcp, udp }"
IS_QUERY, IS_RESPONSE = "th dport 53", "th sport 53"

_ENDS = {IS_QUERY: "saddr", IS_RESPONSE: "daddr"}


def asking_matches(port: str) -> dict[str, str]:
    """Matches, by family, of DNS messages of asking pods; `port`: of queries or of responses."""
    return {family: f"{port} {DNS_PROTOCOLS} {header} {_ENDS[port]} @asking_{family}" for family, header in HEADERS.items()}


def names_rules(config: RulesetConfig, port: str, target: str) -> tuple[str, ...]:
    """Rules of both families that lead DNS messages of asking pods to a chain; none without a DNS queue."""
    return () if config.dns_queue is None else tuple(f"{match} goto {target}" for match in asking_matches(port).values())


def names_targets(config: RulesetConfig, kind: str, targets: dict[str, str]) -> dict[str, str]:
    """The chains, by family, for packets of pods isolated for egress: those of `names_chains`, or `targets` without a DNS queue."""
    return targets if config.dns_queue is None else {family: f"{kind}_{family}" for family in targets}


def names_chains(
    config: RulesetConfig, marks: MarkStatements, queries: dict[str, str], responses: dict[str, str]
) -> Iterator[Chain]:
    """Chains for packets of pods isolated for egress; asking pods are among them. `queries`, `responses`: chains for all others of them."""
    if config.dns_queue is None:
        return
    queued = (f"{marks.is_set} jump keep_field", marks.put(PacketMark.PENDING_NAMES), f"jump {ENQUEUE_NAMES}", "accept")
    yield Chain("pending_names", "", (*note_original(config), *queued))
    passed = pass_evaluated(config, marks)
    query, response = asking_matches(IS_QUERY), asking_matches(IS_RESPONSE)
    for family in HEADERS:
        yield Chain(f"query_{family}", "", (*passed, f"{query[family]} goto pending_names", f"goto {queries[family]}"))
        yield Chain(f"response_{family}", "", (f"{response[family]} goto pending_names", f"goto {responses[family]}"))


def pass_evaluated(config: RulesetConfig, marks: MarkStatements) -> tuple[str, ...]:
    """The rule that accepts a query which was evaluated before routing, though its connection is not accepted.

    Only in the postrouting hook, which has an output interface.
    """
    if config.dns_queue is None or not config.dns_in_prerouting:
        return ()
    return (f"oif != 0 udp dport 53 {marks.is_evaluated_before_routing} accept",)


def own_responses(config: RulesetConfig, prefix: str, target: str) -> tuple[str, tuple[Chain, ...]]:
    """The chain for packets without an input interface, and the chains that it needs besides `own_or_bridged`.

    It leads responses of a DNS server on the node to `target`. `prefix`: of the names of the chains. A packet that has no connection has
    no direction either, and counts as a response: the node's DNS cache may disable connection tracking for itself.
    """
    if config.dns_queue is None:
        return "own_or_bridged", ()
    responses = ("@ll,0,8 >= 0 return", "ct direction original return", *names_rules(config, IS_RESPONSE, target))
    own = (f"{IS_RESPONSE} jump {prefix}own_response", "goto own_or_bridged")
    return f"{prefix}own", (Chain(f"{prefix}own_response", "", responses), Chain(f"{prefix}own", "", own))


def returned_names_chains(config: RulesetConfig, marks: MarkStatements, put_back: tuple[str, ...]) -> Iterator[Chain]:
    """Chains behind the queue for DNS messages: as `returned`, but they do not accept the connection."""
    if config.dns_queue is None:
        return
    without_verdict = f"{marks.differs(PacketMark.ACCEPTED)} counter name {UNJUDGED}" + ("" if config.fail_open else " drop")
    yield Chain("returned_names", "", (without_verdict, *put_back))
    if config.dns_in_prerouting:
        yield Chain("returned_query", "", (without_verdict, marks.evaluate_before_routing, *put_back))
