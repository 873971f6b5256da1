"""All chains of the table `inet netpolq` except `enqueue`, with their rules."""

from collections.abc import Iterator

from netpolq.dataplane.evaluation_chains import evaluate_in, evaluation_chains
from netpolq.dataplane.record_chains import record_chains
from netpolq.dataplane.rule_terms import Chain, MarkStatements, base_hook
from netpolq.dataplane.ruleset_config import UPPER_INTERFACES, RulesetConfig
from netpolq.dataplane.source_chains import link_local_chains, source_chains
from netpolq.enums import NodeEgress


def chains(config: RulesetConfig) -> tuple[Chain, ...]:
    """Every chain but `enqueue`, each after those it jumps to.

    Most packets are established or concern no isolated pod, and pay for every expression before they are through: the common case
    is decided in the base chains, in few steps, and what is rare has a chain of its own.
    """
    marks = MarkStatements(config)
    # Without a conntrack entry there is neither direction nor label: these two then do not match, and the packet is evaluated.
    accept_known = f"{marks.connection_is_accepted} accept"
    is_reply = "ct direction reply"
    has_field = f"{marks.is_set} goto"
    judge_input = []
    if config.node_egress is NodeEgress.JUDGE:
        # The node opened a connection that it gets replies of, and it always reaches its pods.
        judge_input = [
            accept_known,
            f"{is_reply} accept",
            "meta nfproto ipv6 jump link_local_to_node",
            *evaluate_in(config, marks, "to_node"),
        ]
    found = [
        *link_local_chains(),
        *own_or_bridged(marks),
        *evaluation_chains(config, marks),
        *record_chains(config, marks),
        *source_chains(),
        # After destination NAT and before source NAT (100), so that both addresses are those of the pods.
        Chain(
            "judge_postrouting",
            base_hook("postrouting", 95),
            (accept_known, "iif 0 jump own_or_bridged", f"{is_reply} goto reply", *evaluate_in(config, marks, "original")),
        ),
        Chain("record_postrouting", base_hook("postrouting", 96), (f"{has_field} record",)),
    ]
    if config.node_egress is NodeEgress.JUDGE:
        # After IPVS (98 and 99), which takes packets for its services from this hook.
        found.append(Chain("judge_input", base_hook("input", 101), tuple(judge_input)))
        found.append(Chain("record_from_pod", "", (accept_known, f"{is_reply} accept", "goto record_to_node")))
        found.append(Chain("record_input", base_hook("input", 102), (f"{has_field} record_from_pod",)))
    if config.dns_in_prerouting:
        # DNS over UDP, evaluated just after destination NAT (-100); being accepted spares it the later evaluations. What goes to an address
        # of the node is left to the later hooks: it may be that of a service, which IPVS translates in the input hook.
        to_others = (accept_known, f"{is_reply} accept", "fib daddr type local accept")
        found += [
            Chain("dns", "", (*to_others, *evaluate_in(config, marks, "original"))),
            Chain("record_query", "", (*to_others, "goto record_original")),
            Chain("judge_dns", base_hook("prerouting", -95), ("udp dport 53 goto dns",)),
            Chain("record_dns", base_hook("prerouting", -94), (f"udp dport 53 {has_field} record_query",)),
        ]
    return tuple(found)


def own_or_bridged(marks: MarkStatements) -> Iterator[Chain]:
    """Accepts the node's own packets. Reached without an input interface in the postrouting hook; bridged packets come back.

    What the node sends has no input interface there. What it forwards has one, from Linux 5.7 on, also when IPVS sends it through the
    output hook. A bridged packet has none, but the link-layer header that it came with, which a packet of the node has not got yet.
    Neither the socket's user nor the source address would tell: sockets of the kernel and late ACKs have no user, and some
    CNIs give pods addresses of the node. Where the node's interface is stacked on the bridge by a pair, the bridge forwards the node's
    own packets once more, as if a pod had sent them: connections that begin so are told by their label.
    Source: ip_output in net/ipv4/ip_output.c, br_nf_post_routing in
    net/bridge/br_netfilter_hooks.c, nft_payload_eval in net/netfilter/nft_payload.c.
    """
    is_link_local = "fe80::/10 goto link_local_bridged"
    yield Chain("bridged", "", (f"{marks.own_connection} accept", f"ip6 daddr {is_link_local}", f"ip6 saddr {is_link_local}"))
    yield Chain(
        "own_or_bridged",
        "",
        ("@ll,0,8 >= 0 goto bridged", f"oif @{UPPER_INTERFACES} ct direction original {marks.own_the_connection}", "accept"),
    )
