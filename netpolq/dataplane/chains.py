"""All chains of the table `inet netpolq` except `enqueue`, with their rules."""

from collections.abc import Iterator

from netpolq.dataplane.evaluation_chains import evaluate_in, evaluation_chains
from netpolq.dataplane.names_chains import IS_QUERY, names_rules, own_responses
from netpolq.dataplane.record_chains import held_queries, record_chains
from netpolq.dataplane.rule_terms import Chain, MarkStatements, base_hook
from netpolq.dataplane.ruleset_config import UPPER_INTERFACES, RulesetConfig
from netpolq.dataplane.source_chains import link_local_chains, source_chains
from netpolq.dataplane.unknown_chains import unknown_rules_before_routing
from netpolq.enums import NodeEgress


def chains(config: RulesetConfig) -> tuple[Chain, ...]:
    """Every chain but `enqueue`, each after those it jumps to.

    Most packets are established or concern no isolated pod, and each expression costs time. So the base chains decide the common case in
    few steps, and rare cases have chains of their own.
    """
    marks = MarkStatements(config)
    # A packet without a conntrack entry has neither direction nor label: these two do not match, and the packet is evaluated.
    accept_known = f"{marks.connection_is_accepted} accept"
    is_reply = "ct direction reply"
    has_field = f"{marks.is_set} goto"
    input_rules = []
    if config.node_egress is NodeEgress.JUDGE:
        # A reply belongs to a connection that the node opened, and the node may always connect to its pods.
        input_rules = [
            accept_known,
            f"{is_reply} accept",
            "meta nfproto ipv6 jump link_local_to_node",
            *evaluate_in(config, marks, "to_node"),
        ]
    elif config.dns_queue is not None:
        input_rules = [f"{IS_QUERY} goto to_node"]
    own, own_chains = own_responses(config, "", "pending_names")
    found = [
        *link_local_chains(),
        *own_or_bridged(marks),
        *evaluation_chains(config, marks),
        *own_chains,
        *record_chains(config, marks),
        *source_chains(),
        # After destination NAT and before source NAT (100), so that both addresses are those of the pods.
        Chain(
            "judge_postrouting",
            base_hook("postrouting", 95),
            (accept_known, f"iif 0 jump {own}", f"{is_reply} goto reply", *evaluate_in(config, marks, "original")),
        ),
        Chain("record_postrouting", base_hook("postrouting", 96), (f"{has_field} record",)),
    ]
    if input_rules:
        # After IPVS (98 and 99), which takes packets for its services from this hook.
        found.append(Chain("judge_input", base_hook("input", 101), tuple(input_rules)))
        found.append(Chain("record_from_pod", "", (accept_known, f"{is_reply} accept", "goto record_to_node")))
        found.append(Chain("record_input", base_hook("input", 102), (f"{has_field} record_from_pod",)))
    if config.dns_in_prerouting:
        # DNS over UDP, evaluated just after destination NAT (-100). Later hooks do not evaluate an accepted packet again. They evaluate
        # packets to addresses of the node: these may be addresses of services, which IPVS translates in the input hook.
        to_others = (accept_known, f"{is_reply} accept", "fib daddr type local accept")
        found += [
            Chain("dns", "", (*to_others, *unknown_rules_before_routing(config), *evaluate_in(config, marks, "original"))),
            # A held query goes to the reader after routing: held_queries comes first.
            Chain(
                "record_query",
                "",
                (
                    *to_others,
                    *held_queries(config, marks),
                    *names_rules(config, IS_QUERY, "returned_query"),
                    "goto record_original",
                ),
            ),
            Chain("judge_dns", base_hook("prerouting", -95), ("udp dport 53 goto dns",)),
            Chain("record_dns", base_hook("prerouting", -94), (f"udp dport 53 {has_field} record_query",)),
        ]
    return tuple(found)


def own_or_bridged(marks: MarkStatements) -> Iterator[Chain]:
    """Accepts the node's own packets. For packets without an input interface in the postrouting hook; bridged packets return.

    A packet that the node sends has no input interface there. A packet that it forwards has one, from Linux 5.7 on, also when IPVS sends it
    through the output hook. A bridged packet has none, but it has the link-layer header with which it arrived; a packet of the node has no
    such header at this point. The socket's user and the source address are no criteria: sockets of the kernel and late ACKs have no user,
    and some CNIs give pods addresses of the node. Where a veth pair stacks the node's interface on the bridge, the bridge forwards the
    node's own packets again, as if a pod had sent them: the label identifies connections that begin this way.
    Source: ip_output in net/ipv4/ip_output.c, br_nf_post_routing in net/bridge/br_netfilter_hooks.c, nft_payload_eval in
    net/netfilter/nft_payload.c.
    """
    is_link_local = "fe80::/10 goto link_local_bridged"
    yield Chain("bridged", "", (f"{marks.own_connection} accept", f"ip6 daddr {is_link_local}", f"ip6 saddr {is_link_local}"))
    yield Chain(
        "own_or_bridged",
        "",
        ("@ll,0,8 >= 0 goto bridged", f"oif @{UPPER_INTERFACES} ct direction original {marks.own_the_connection}", "accept"),
    )
