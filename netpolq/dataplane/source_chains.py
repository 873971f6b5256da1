"""Chains that check where packets come from: spoofed sources, and link-local addresses of isolated pods."""

from collections.abc import Iterator

from netpolq.dataplane.rule_terms import NEIGHBOUR_DISCOVERY, Chain, base_hook
from netpolq.dataplane.ruleset_config import SOURCES_V4, SOURCES_V6
from netpolq.dataplane.ruleset_names import SPOOFED


def source_chains() -> Iterator[Chain]:
    """Chains that drop new connections whose first packet does not arrive from the direction of its source, so that replies are safe.

    Otherwise a pod could send a packet with the source address of another pod, and then send data to that pod in replies, which are not
    evaluated. The chains check packets with the source address of a local pod, and packets from the interface of one. They do not check
    packets of established connections, because the first packet was checked. Sets contain the routes to local pods and are looked up
    first: the routing table takes longer, and a bridge has no routes where an interface stacked on it has them.
    The check is before routing, because the node replies to a packet whose time to live ends, and after connection tracking (-200),
    which classifies packets as new.
    Source: nft_fib_ipv4.c and nft_fib_ipv6.c; `fib … oif` is 0 also for an address of the node.
    """
    is_elsewhere = f"fib saddr . iif oif 0 counter name {SPOOFED} drop"
    not_assigned_yet = ("ip saddr 0.0.0.0 accept", "ip6 saddr :: accept")  # DHCP, and RFC 4862 section 5.4
    known = (f"iif . ip saddr @{SOURCES_V4} accept", f"iif . ip6 saddr @{SOURCES_V6} accept")
    yield Chain("source_of_pod", "", (*known, *not_assigned_yet, is_elsewhere))
    yield Chain("source_elsewhere", "", (*known, is_elsewhere))
    in_the_name_of_a_pod = ("ip saddr @local_v4 goto source_elsewhere", "ip6 saddr @local_v6 goto source_elsewhere")
    yield Chain("source", "", ("iif @pod_interfaces goto source_of_pod", *in_the_name_of_a_pod))
    yield Chain("check_source", base_hook("prerouting", -199), ("ct state invalid,new,related,untracked jump source",))


def link_local_chains() -> Iterator[Chain]:
    """Chains for link-local addresses of pods. The API does not contain them, so no policy allows them.

    Packets with such addresses are never routed: they are either bridged or sent to the node. The agent cannot tell which pod of a bridge
    has which of these addresses, so an isolated pod on an interface closes it for the link-local unicast traffic of all its pods.
    """
    not_multicast = "ip6 daddr != ff00::/8"
    yield Chain(
        "link_local_bridged",
        "",
        (
            NEIGHBOUR_DISCOVERY,
            "ip6 daddr fe80::/10 oif @isolated_ingress_interfaces drop",
            f"ip6 saddr fe80::/10 {not_multicast} oif @isolated_egress_interfaces drop",
        ),
    )
    yield Chain(
        "link_local_to_node",
        "",
        (NEIGHBOUR_DISCOVERY, f"ip6 saddr fe80::/10 {not_multicast} iif @isolated_egress_interfaces drop"),
    )
