"""The nftables ruleset as text: pure rendering of the table `inet netpolq`, except the one rule of its chain `enqueue`.

The table holds no policy: it finds the packets that concern an isolated local pod, has them judged, and remembers the acceptance.
With the verdict cache it also holds decisions that were made more than once lately, in two maps that somebody else fills
(`netpolq.dataplane.verdict_maps`), and asks these before the workers.
What a packet has been through stands in a three-bit field of its mark (`PacketMark`); every rule leaves all other bits as they are.
Conntrack keeps one bit, set on connections that were accepted.

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
from netpolq.enums import Dataplane, NodeEgress, PacketMark

TABLE = "netpolq"
ENQUEUE = "enqueue"
UNJUDGED = "unjudged"

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

    `mark_mask`: exactly three adjacent bits of the packet mark; `ct_mark_bit`: one bit of the connection mark.
    `dns_in_prerouting`: judge DNS over UDP before routing (see `netpolq.dataplane.kernel`). `form`: NATIVE or COMPAT, never AUTO.
    `verdict_cache`: ask the verdict maps before the workers.
    """

    queue_first: int
    queue_count: int
    fanout: bool
    fail_open: bool
    mark_mask: int
    ct_mark_bit: int
    node_egress: NodeEgress
    dns_in_prerouting: bool
    form: Dataplane
    verdict_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolatedSets:
    """Address keys, of both families, of the local pods that are isolated in a direction."""

    ingress: frozenset[bytes]
    egress: frozenset[bytes]

    def by_set_name(self) -> dict[str, frozenset[str]]:
        """The elements of each of the four sets, in text form."""
        return {
            f"isolated_{direction}_{family}": frozenset(format_address(key) for key in keys if is_ipv4(key) is (family == "v4"))
            for direction, keys in (("ingress", self.ingress), ("egress", self.egress))
            for family in ("v4", "v6")
        }


class Chain(NamedTuple):
    """A chain and its rules. `hook`: hook and priority of a base chain, empty for one that is only jumped to."""

    name: str
    hook: str
    rules: tuple[str, ...]


class _Marks:
    """Matches and statements on the packet's field and on the connection's bit."""

    def __init__(self, config: RulesetConfig) -> None:
        self._mask = config.mark_mask
        self._shift = (config.mark_mask & -config.mark_mask).bit_length() - 1
        self._accepted = _hexadecimal(config.ct_mark_bit)
        self.is_set = f"meta mark & {_hexadecimal(self._mask)} != 0x00000000"
        self.clear = self.put(PacketMark.NONE)
        self.connection_is_accepted = f"ct mark & {self._accepted} == {self._accepted}"
        self.accept_connection = f"ct mark set ct mark | {self._accepted}"

    def value(self, state: PacketMark) -> str:
        return _hexadecimal(state << self._shift)

    def equals(self, *states: PacketMark) -> str:
        values = ", ".join(self.value(state) for state in states)
        return f"meta mark & {_hexadecimal(self._mask)} == {values if len(states) == 1 else f'{{ {values} }}'}"

    def put(self, state: PacketMark) -> str:
        others = f"meta mark set meta mark & {_hexadecimal(~self._mask & 0xFFFFFFFF)}"
        return others if state is PacketMark.NONE else f"{others} | {self.value(state)}"


def chains(config: RulesetConfig) -> tuple[Chain, ...]:
    """Every chain but `enqueue`, each after those it jumps to.

    Most packets are established or concern nobody who is isolated, and pay for every expression before they are through: the common case
    is decided in the base chains, in few steps, and what is rare has a chain of its own.
    """
    marks = _Marks(config)
    # A field that something else restored from a connection mark must not be taken for ours.
    forget_stale_state = f"{marks.is_set} {marks.clear}"
    # Without a conntrack entry there is neither direction nor connection mark: these two then do not match, and the packet is judged.
    accept_known = f"{marks.connection_is_accepted} accept"
    is_reply = "ct direction reply"
    record_state = f"{marks.is_set} goto record"

    judge_input = [forget_stale_state]  # always: sockets may inherit a packet's mark (tcp_fwmark_accept, fwmark_reflect)
    if config.node_egress is NodeEgress.JUDGE:
        # The node opened a connection that it gets replies of, and it always reaches its pods.
        judge_input += [accept_known, f"{is_reply} accept", *_ask(config, marks, "to_node")]
    found = [
        *_question_chains(config, marks),
        Chain("not_fresh", "", (f"{marks.equals(PacketMark.OWN_NODE)} accept", marks.clear)),
        Chain(
            "record",
            "",
            (
                f"{marks.equals(PacketMark.ACCEPTED)} {marks.accept_connection}",
                f"{marks.equals(PacketMark.PENDING_ORIGINAL, PacketMark.PENDING_REPLY)} counter name {UNJUDGED}"
                + ("" if config.fail_open else " drop"),
                marks.clear,
            ),
        ),
        # Before the mangle chains (-150): what they restore can then cost a packet its state and have it judged, never spare it that.
        Chain("mark_input", _hook("input", -155), (f'iifname != "lo" {marks.put(PacketMark.FROM_OUTSIDE)}',)),
        # A forwarded packet that IPVS emits again comes through here too, with FROM_OUTSIDE.
        Chain("mark_output", _hook("output", -155), (f"{marks.equals(PacketMark.NONE)} {marks.put(PacketMark.OWN_NODE)}",)),
        # After destination NAT and before source NAT (100), so that both addresses are those of the pods.
        Chain(
            "judge_postrouting",
            _hook("postrouting", 95),
            (f"{marks.is_set} jump not_fresh", accept_known, f"{is_reply} goto reply", *_ask(config, marks, "original")),
        ),
        Chain("record_postrouting", _hook("postrouting", 96), (record_state,)),
        # After IPVS (98 and 99), which takes packets for its services from this hook.
        Chain("judge_input", _hook("input", 101), tuple(judge_input)),
    ]
    if config.node_egress is NodeEgress.JUDGE:
        found.append(Chain("record_input", _hook("input", 102), (record_state,)))
    if config.dns_in_prerouting:
        # DNS over UDP, judged just after destination NAT (-100); being accepted spares it the later judgements.
        spare_the_node = ("fib daddr type local accept",) if config.node_egress is NodeEgress.ALLOW else ()
        known = (forget_stale_state, accept_known, f"{is_reply} accept")
        found += [
            Chain("dns", "", (*known, *spare_the_node, *_ask(config, marks, "original"))),
            Chain("judge_dns", _hook("prerouting", -95), ("udp dport 53 goto dns",)),
            Chain("record_dns", _hook("prerouting", -94), (f"udp dport 53 {record_state}",)),
        ]
    return tuple(found)


def _ask(config: RulesetConfig, marks: _Marks, question: str) -> tuple[str, ...]:
    """The last rules of a chain: go through the chain `question`, from which only what the verdict cache accepts comes back."""
    if not config.verdict_cache:
        return (f"goto {question}",)
    return f"jump {question}", f"counter name {CACHE_ACCEPTS} {marks.accept_connection}"


def _question_chains(config: RulesetConfig, marks: _Marks) -> Iterator[Chain]:
    """Who has to be judged, and by whom: the verdict maps, then the workers.

    Looked up in a map is a connection in its original direction. An element's verdict is `drop` or `return`, never a jump: chains that
    elements jump to would have a use that changes with them, and nobody could tell any more whether their rules are all there. `return`
    leads back to the rule that accepts, behind the jump to the question; so nothing else in here may come to the end of its chain.

    The maps know only TCP, UDP and SCTP, so whatever stands in the place of a port elsewhere is not found in them, without a test of the
    protocol. Nor is a later fragment, which has no transport header for nftables.
    """
    yield Chain("pending_original", "", (marks.put(PacketMark.PENDING_ORIGINAL), f"jump {ENQUEUE}", "accept"))
    judge_v4 = judge_v6 = "goto pending_original"
    if config.verdict_cache:
        for family, address, verdicts, closed in (("v4", "ip", VERDICTS_V4, CLOSED_V4), ("v6", "ip6", VERDICTS_V6, CLOSED_V6)):
            pair = f"{address} saddr . {address} daddr . meta l4proto"
            look_up = f"counter name {CACHE_LOOKUPS} {pair} . th dport vmap @{verdicts}"
            misses = f"counter name {CACHE_MISSES} goto pending_original"
            yield Chain(f"remembered_{family}", "", (look_up, f"{pair} @{closed} drop", misses))
        judge_v4, judge_v6 = "goto remembered_v4", "goto remembered_v6"
    ingress_v6, egress_v6 = f"ip6 daddr @isolated_ingress_v6 {judge_v6}", f"ip6 saddr @isolated_egress_v6 {judge_v6}"
    ingress_v4, egress_v4 = f"ip daddr @isolated_ingress_v4 {judge_v4}", f"ip saddr @isolated_egress_v4 {judge_v4}"
    yield Chain("original_v6", "", (_NEIGHBOUR_DISCOVERY, ingress_v6, egress_v6, "accept"))
    yield Chain("original", "", ("meta nfproto ipv6 goto original_v6", ingress_v4, egress_v4, "accept"))
    if config.node_egress is NodeEgress.JUDGE:
        yield Chain("to_node", "", (egress_v4, _NEIGHBOUR_DISCOVERY, egress_v6, "accept"))
    pending_reply = f"{marks.put(PacketMark.PENDING_REPLY)} goto {ENQUEUE}"
    yield Chain(
        "reply",
        "",
        (
            f"ip saddr @isolated_ingress_v4 {pending_reply}",
            f"ip daddr @isolated_egress_v4 {pending_reply}",
            f"ip6 saddr @isolated_ingress_v6 {pending_reply}",
            f"ip6 daddr @isolated_egress_v6 {pending_reply}",
        ),
    )


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
    yield f"add counter inet {TABLE} {UNJUDGED}"
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
        yield f"add set inet {TABLE} {name} {{ type {'ipv4_addr' if name.endswith('v4') else 'ipv6_addr'}; }}"
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


def render_changes(before: IsolatedSets, after: IsolatedSets) -> str:
    """The script that turns the sets from one state into another, empty when they are equal. Fails if `before` is not in force."""
    old, new = before.by_set_name(), after.by_set_name()
    lines = [_element("add", name, new[name] - old[name]) for name in new if new[name] - old[name]]
    lines += [_element("delete", name, old[name] - new[name]) for name in new if old[name] - new[name]]
    return "".join(f"{line}\n" for line in lines)


def _element(verb: str, name: str, addresses: frozenset[str]) -> str:
    return f"{verb} element inet {TABLE} {name} {{ {', '.join(sorted(addresses))} }}"


def _hook(hook: str, priority: int) -> str:
    return f" {{ type filter hook {hook} priority {priority}; policy accept; }}"


def _hexadecimal(number: int) -> str:
    return f"0x{number:08x}"
