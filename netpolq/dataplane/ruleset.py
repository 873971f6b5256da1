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

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from netpolq.addresses import format_address, is_ipv4
from netpolq.dataplane.pod_interfaces import NO_INTERFACES, PodInterfaces
from netpolq.enums import ConnectionLabel, Dataplane, NodeEgress, PacketMark

TABLE = "netpolq"
ENQUEUE = "enqueue"
UNJUDGED = "unjudged"

SPOOFED = "spoofed"
"""Counter of new connections that came from an interface that does not lead to their source."""

CACHE_LOOKUPS = "cache_lookups"
CACHE_MISSES = "cache_misses"
CACHE_ACCEPTS = "cache_accepts"
"""Counters of the verdict cache. Every look-up ends as a miss, as an accept, or as a drop, which no counter of its own tells."""

VERDICTS_V4 = "verdicts_v4"
VERDICTS_V6 = "verdicts_v6"
"""Maps from source, destination, protocol and destination port to `drop`, or to `return`, which stands for an accept."""

CLOSED_V4 = "closed_v4"
CLOSED_V6 = "closed_v6"
"""Sets of source, destination and protocol: dropped, whatever the port. One element answers a scan of all ports."""

_NEIGHBOUR_DISCOVERY = "icmpv6 type 133-137 ip6 hoplimit 255 accept"
"""Source: RFC 4861 sections 4 and 6.1: hop limit 255 proves that no router forwarded the packet."""


class CacheCounts(NamedTuple):
    """What became of the packets that were looked up in the kernel's verdict cache."""

    accepts: int
    drops: int
    misses: int

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> "CacheCounts":
        """From the ruleset's counters. These are read one after the other: packets in between must not make a number negative."""
        accepts, misses = counters.get(CACHE_ACCEPTS, 0), counters.get(CACHE_MISSES, 0)
        return cls(accepts, max(counters.get(CACHE_LOOKUPS, 0) - accepts - misses, 0), misses)

    def not_below(self, earlier: "CacheCounts") -> "CacheCounts":
        """The same with no fewer drops than earlier: these are a difference, which may fall, and a counter may not.

        If another counter has fallen, the table was made again, and all of them begin at zero.
        """
        if self.accepts < earlier.accepts or self.misses < earlier.misses:
            return self
        return self._replace(drops=max(self.drops, earlier.drops))

    @property
    def hits(self) -> int:
        """Packets that needed no worker."""
        return self.accepts + self.drops


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesetConfig:
    """All that the ruleset depends on besides the addresses.

    `mark_mask`: exactly three adjacent bits of the packet mark; `ct_label`: the first of five adjacent bits of the connection's label.
    `dns_in_prerouting`: judge DNS over UDP before routing (see `netpolq.dataplane.host_checks`). `form`: NATIVE or COMPAT, never AUTO.
    `verdict_cache`: ask the verdict maps before the workers.
    """

    queue_first: int
    queue_count: int
    fanout: bool
    fail_open: bool
    mark_mask: int
    ct_label: int
    node_egress: NodeEgress
    dns_in_prerouting: bool
    form: Dataplane
    verdict_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolatedSets:
    """What the sets of the table hold.

    `ingress`, `egress`: address keys, of both families, of the local pods that are isolated in a direction. `local`: those of all local
    pods. `interfaces`: where these pods are (`netpolq.dataplane.pod_interfaces`).
    """

    ingress: frozenset[bytes]
    egress: frozenset[bytes]
    local: frozenset[bytes] = frozenset()
    interfaces: PodInterfaces = NO_INTERFACES

    def by_set_name(self) -> dict[str, frozenset[str]]:
        """The elements of each of the sets, in text form."""
        addresses = {"isolated_ingress": self.ingress, "isolated_egress": self.egress, "local": self.local}
        found = {
            f"{name}_{family}": frozenset(format_address(key) for key in keys if is_ipv4(key) is (family == "v4"))
            for name, keys in addresses.items()
            for family in ("v4", "v6")
        }
        interfaces = self.interfaces
        indexes = (interfaces.pods, interfaces.isolated_ingress, interfaces.isolated_egress, interfaces.upper)
        found |= {name: frozenset(map(str, ones)) for name, ones in zip(_INTERFACE_SETS, indexes, strict=True)}
        for family, name in (("v4", _SOURCES_V4), ("v6", _SOURCES_V6)):
            pairs = interfaces.sources
            found[name] = frozenset(
                f"{index} . {format_address(key)}" for index, key in pairs if is_ipv4(key) is (family == "v4")
            )
        return found


_UPPER = "upper_interfaces"
_INTERFACE_SETS = ("pod_interfaces", "isolated_ingress_interfaces", "isolated_egress_interfaces", _UPPER)
"""Sets of interface indexes."""

_SOURCES_V4, _SOURCES_V6 = "pod_sources_v4", "pod_sources_v6"
"""Sets of an interface index and an address."""


def set_type(name: str) -> str:
    """The nftables type of the elements of a set."""
    if name in _INTERFACE_SETS:
        return "iface_index"
    address = "ipv4_addr" if name.endswith("v4") else "ipv6_addr"
    return f"iface_index . {address}" if name in {_SOURCES_V4, _SOURCES_V6} else address


class Chain(NamedTuple):
    """A chain and its rules. `hook`: hook and priority of a base chain, empty for one that is only jumped to."""

    name: str
    hook: str
    rules: tuple[str, ...]


class _Marks:
    """Matches and statements on the packet's field and on the connection's label."""

    def __init__(self, config: RulesetConfig) -> None:
        self._mask = config.mark_mask
        self._shift = (config.mark_mask & -config.mark_mask).bit_length() - 1
        accepted = config.ct_label + ConnectionLabel.ACCEPTED
        self.is_set = f"meta mark & {_hexadecimal(self._mask)} != 0x00000000"
        self.clear = f"meta mark set meta mark & {_hexadecimal(~self._mask & 0xFFFFFFFF)}"
        self.connection_is_accepted = f"ct label {accepted}"
        self.accept_connection = f"ct label set {accepted}"
        self.own_connection = f"ct label {config.ct_label + ConnectionLabel.OWN}"
        self.own_the_connection = f"ct label set {config.ct_label + ConnectionLabel.OWN}"
        # What other software keeps in the field, bit by bit, and the bits of the label that keep it while ours is there.
        self.kept = [
            (_hexadecimal(1 << self._shift + offset), config.ct_label + ConnectionLabel.KEPT_MARK + offset)
            for offset in range(_FIELD_BITS)
        ]

    def equals(self, *states: PacketMark) -> str:
        values = ", ".join(_hexadecimal(state << self._shift) for state in states)
        return f"meta mark & {_hexadecimal(self._mask)} == {values if len(states) == 1 else f'{{ {values} }}'}"

    def put(self, state: PacketMark) -> str:
        return f"{self.clear} | {_hexadecimal(state << self._shift)}"


_FIELD_BITS = 3


def chains(config: RulesetConfig) -> tuple[Chain, ...]:
    """Every chain but `enqueue`, each after those it jumps to.

    Most packets are established or concern no isolated pod, and pay for every expression before they are through: the common case
    is decided in the base chains, in few steps, and what is rare has a chain of its own.
    """
    marks = _Marks(config)
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
            *_ask(config, marks, "to_node"),
        ]
    found = [
        *_link_local_chains(),
        *_own_or_bridged(marks),
        *_question_chains(config, marks),
        *_record_chains(config, marks),
        *_source_chains(),
        # After destination NAT and before source NAT (100), so that both addresses are those of the pods.
        Chain(
            "judge_postrouting",
            _hook("postrouting", 95),
            (accept_known, "iif 0 jump own_or_bridged", f"{is_reply} goto reply", *_ask(config, marks, "original")),
        ),
        Chain("record_postrouting", _hook("postrouting", 96), (f"{has_field} record",)),
    ]
    if config.node_egress is NodeEgress.JUDGE:
        # After IPVS (98 and 99), which takes packets for its services from this hook.
        found.append(Chain("judge_input", _hook("input", 101), tuple(judge_input)))
        found.append(Chain("record_from_pod", "", (accept_known, f"{is_reply} accept", "goto record_to_node")))
        found.append(Chain("record_input", _hook("input", 102), (f"{has_field} record_from_pod",)))
    if config.dns_in_prerouting:
        # DNS over UDP, evaluated just after destination NAT (-100); being accepted spares it the later evaluations. What goes to an address
        # of the node is left to the later hooks: it may be that of a service, which IPVS translates in the input hook.
        to_others = (accept_known, f"{is_reply} accept", "fib daddr type local accept")
        found += [
            Chain("dns", "", (*to_others, *_ask(config, marks, "original"))),
            Chain("record_query", "", (*to_others, "goto record_original")),
            Chain("judge_dns", _hook("prerouting", -95), ("udp dport 53 goto dns",)),
            Chain("record_dns", _hook("prerouting", -94), (f"udp dport 53 {has_field} record_query",)),
        ]
    return tuple(found)


def _ask(config: RulesetConfig, marks: _Marks, question: str) -> tuple[str, ...]:
    """The last rules of a chain: go through the chain `question`, from which only what the verdict cache accepts comes back."""
    if not config.verdict_cache:
        return (f"goto {question}",)
    return f"jump {question}", f"counter name {CACHE_ACCEPTS} {marks.accept_connection}"


def _own_or_bridged(marks: _Marks) -> Iterator[Chain]:
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
        ("@ll,0,8 >= 0 goto bridged", f"oif @{_UPPER} ct direction original {marks.own_the_connection}", "accept"),
    )


def _link_local_chains() -> Iterator[Chain]:
    """Link-local addresses of pods, which the API does not know: no rule of a policy admits them.

    Packets with such addresses are never routed, so they are either bridged or on their way to the node. Which pod of a bridge has which of
    these addresses is not known, so an isolated pod on an interface closes it for the link-local unicast traffic of all its pods.
    """
    not_multicast = "ip6 daddr != ff00::/8"
    yield Chain(
        "link_local_bridged",
        "",
        (
            _NEIGHBOUR_DISCOVERY,
            "ip6 daddr fe80::/10 oif @isolated_ingress_interfaces drop",
            f"ip6 saddr fe80::/10 {not_multicast} oif @isolated_egress_interfaces drop",
        ),
    )
    yield Chain(
        "link_local_to_node",
        "",
        (_NEIGHBOUR_DISCOVERY, f"ip6 saddr fe80::/10 {not_multicast} iif @isolated_egress_interfaces drop"),
    )


def _source_chains() -> Iterator[Chain]:
    """Drops new connections whose first packet does not come from where its source is, so that replies can be trusted.

    Otherwise a pod could send a packet with the address of another one as its source, and then talk to that one in replies, which
    are not evaluated. Two kinds of packets are looked at: those that claim to come from a local pod, and those that come from one.
    Packets of established connections are not, since their first packet was. What is known of the routes to local pods stands in sets,
    which are asked first: the routing table takes longer, and a bridge has no routes where an interface stacked on it has them.
    Before routing, since the node answers to a packet whose time to live ends, and after connection tracking (-200), which tells the
    new ones.
    Source: nft_fib_ipv4.c and nft_fib_ipv6.c; `fib … oif` is 0 also for an address of the node.
    """
    is_elsewhere = f"fib saddr . iif oif 0 counter name {SPOOFED} drop"
    not_assigned_yet = ("ip saddr 0.0.0.0 accept", "ip6 saddr :: accept")  # DHCP, and RFC 4862 section 5.4
    known = (f"iif . ip saddr @{_SOURCES_V4} accept", f"iif . ip6 saddr @{_SOURCES_V6} accept")
    yield Chain("source_of_pod", "", (*known, *not_assigned_yet, is_elsewhere))
    yield Chain("source_elsewhere", "", (*known, is_elsewhere))
    in_the_name_of_a_pod = ("ip saddr @local_v4 goto source_elsewhere", "ip6 saddr @local_v6 goto source_elsewhere")
    yield Chain("source", "", ("iif @pod_interfaces goto source_of_pod", *in_the_name_of_a_pod))
    yield Chain("check_source", _hook("prerouting", -199), ("ct state invalid,new,related,untracked jump source",))


def _isolated(direction: str) -> dict[str, tuple[str, ...]]:
    """Matches of packets that a worker evaluates, by family; `direction`: of the packet within its connection, "to_node" to the node."""
    ends = {
        "original": (("daddr", "ingress"), ("saddr", "egress")),
        "reply": (("saddr", "ingress"), ("daddr", "egress")),
        "to_node": (("saddr", "egress"),),
    }[direction]
    return {
        family: tuple(f"{header} {end} @isolated_{isolation}_{family}" for end, isolation in ends)
        for family, header in (("v4", "ip"), ("v6", "ip6"))
    }


def _question_chains(config: RulesetConfig, marks: _Marks) -> Iterator[Chain]:
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
    original, reply = _isolated("original"), _isolated("reply")
    v4, v6 = (tuple(f"{match} {judge[family]}" for match in original[family]) for family in ("v4", "v6"))
    yield Chain("original_v6", "", (_NEIGHBOUR_DISCOVERY, *v6, "accept"))
    yield Chain("original", "", ("meta nfproto ipv6 goto original_v6", *v4, "accept"))
    if config.node_egress is NodeEgress.JUDGE:
        v4, v6 = (tuple(f"{match} {judge[family]}" for match in _isolated("to_node")[family]) for family in ("v4", "v6"))
        yield Chain("to_node", "", (*v4, _NEIGHBOUR_DISCOVERY, *v6, "accept"))
    yield Chain("reply", "", tuple(f"{match} goto pending_reply" for match in (*reply["v4"], *reply["v6"])))


def _record_chains(config: RulesetConfig, marks: _Marks) -> Iterator[Chain]:
    """What becomes of packets that have something in the field, behind the queue.

    A packet has been queued if it is one that the chains before the queue hand to it: of a connection that is not accepted, not the node's
    own, of an isolated pod. All others pass as they are: what stands in the field is other software's.
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
        isolated = _isolated(direction)
        v4, v6 = (tuple(f"{match} goto returned" for match in isolated[family]) for family in ("v4", "v6"))
        yield Chain(f"record_{direction}", "", (*v4, _NEIGHBOUR_DISCOVERY, *v6))
    to_pods = (f"{marks.connection_is_accepted} accept", "iif 0 jump own_or_bridged", "ct direction reply goto record_reply")
    yield Chain("record", "", (*to_pods, "goto record_original"))


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


def _hook(hook: str, priority: int) -> str:
    return f" {{ type filter hook {hook} priority {priority}; policy accept; }}"


def _hexadecimal(number: int) -> str:
    return f"0x{number:08x}"
