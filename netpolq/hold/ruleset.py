"""The table `inet netpolq_hold` as a script of nft: pure rendering.

The table drops each packet from or to a pod range, except:
- what a process of the node sends, and the replies to it: probes of the kubelet work;
- packets of connections that the agent has accepted before: these have its bit in their label. A rule about labels also has the kernel make
  room for them in all connections that begin from now on;
- neighbour discovery, and what stays on the loopback interface.

A packet that IPVS sends on comes through the output hook without a socket, so it is not taken for one of the node's own.
The table drops before the agent's chains queue (forward and input come before postrouting at 95 and input at 101): nothing
waits for a verdict when it is removed.
"""

from collections.abc import Iterable, Iterator

from netpolq.hold.ranges import PodRange, collapse

TABLE = "netpolq_hold"
DEFAULT_CT_LABEL = 120
"""Default of the agent's `--ct-label`."""

MAX_CT_LABEL = 123
"""Behind it there is room for the agent's bits in a label of 128, `netpolq.enums.CONNECTION_LABEL_BITS`."""

SETS = {4: "pods_v4", 6: "pods_v6"}
"""The sets of ranges, by version of IP."""

_PRIORITY = 10
"""After destination NAT (-100), so that the addresses are those of pods; before the agent's chain in the input hook (101)."""

_NEIGHBOUR_DISCOVERY = "icmpv6 type 133-137 ip6 hoplimit 255 accept"
"""Source: RFC 4861 sections 4 and 6.1: hop limit 255 proves that no router forwarded the packet."""

_OWN = ("meta skuid 0-4294967295 accept", "ct state established,related fib saddr type local accept")
"""What the node itself sends: from an open socket of a process, whichever its user; or, where the process has closed the socket and
the kernel ends the connection, from an address of the node. The second alone would take a packet that IPVS sends on, with a
forged source, for the node's own."""


def render(ranges: Iterable[PodRange], *, ct_label: int = DEFAULT_CT_LABEL) -> str:
    """The script for `nft -f -` that puts the table in place in one transaction, over nothing or over an earlier form of it.

    `ct_label`: the bit of the connection label by which the agent remembers an acceptance.
    """
    return "".join(f"{line}\n" for line in _lines(collapse(ranges), ct_label))


def render_ranges(ranges: Iterable[PodRange]) -> str:
    """The script that has the table in place hold these ranges and no others; its rules stay as they are."""
    collapsed = collapse(ranges)
    return "".join(f"{line}\n" for version in SETS for line in _element_lines(version, collapsed))


def render_release() -> str:
    """The script that removes the table, whether it is there or not."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


def _lines(ranges: tuple[PodRange, ...], ct_label: int) -> Iterator[str]:
    accepted = f"ct label {ct_label} accept"
    drop_source = ("ip saddr @pods_v4 counter name held drop", "ip6 saddr @pods_v6 counter name held drop")
    drop_destination = ("ip daddr @pods_v4 counter name held drop", "ip6 daddr @pods_v6 counter name held drop")
    chains = {
        "forward": (accepted, *drop_source, *drop_destination),
        # Replies that arrive at the node are those to its own connections.
        "input": ('iifname "lo" accept', accepted, "ct direction reply accept", _NEIGHBOUR_DISCOVERY, *drop_source),
        # What the kernel answers in the node's name (a reset, an ICMP error) has no socket, and goes in the direction of replies.
        "output": (
            'oifname "lo" accept',
            accepted,
            *_OWN,
            "ct direction reply accept",
            _NEIGHBOUR_DISCOVERY,
            *drop_destination,
        ),
    }
    yield f"add table inet {TABLE}"
    yield f"add counter inet {TABLE} held"
    for version, set_name in SETS.items():
        yield f"add set inet {TABLE} {set_name} {{ type ipv{version}_addr; flags interval; }}"
        yield from _element_lines(version, ranges)
    for hook, rules in chains.items():
        yield f"add chain inet {TABLE} {hook} {{ type filter hook {hook} priority {_PRIORITY}; policy accept; }}"
        yield f"flush chain inet {TABLE} {hook}"
        for rule in rules:
            yield f"add rule inet {TABLE} {hook} {rule}"


def _element_lines(version: int, ranges: tuple[PodRange, ...]) -> Iterator[str]:
    yield f"flush set inet {TABLE} {SETS[version]}"
    elements = ", ".join(str(one) for one in ranges if one.version == version)
    if elements:
        yield f"add element inet {TABLE} {SETS[version]} {{ {elements} }}"
