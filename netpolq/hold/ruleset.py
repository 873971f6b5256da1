"""Renderer of the table `inet netpolq_hold` as an nft script.

The table drops each packet from or to a pod range, except:
- packets that a process of the node sends, and the replies to them, so that probes of the kubelet work;
- packets of connections that the agent has accepted before: their label has its bit. A rule about labels also makes the kernel allocate
  labels for all connections that begin from now on;
- neighbour discovery, and packets on the loopback interface.

A packet that IPVS forwards passes the output hook without a socket, so it does not count as one of the node's own.
The table drops before the agent's chains queue (forward and input come before postrouting at 95 and input at 101): no packet
waits for a verdict when the table is removed.
"""

from collections.abc import Iterable, Iterator

from netpolq.hold.ranges import PodRange, collapse

TABLE = "netpolq_hold"
DEFAULT_CT_LABEL = 120
"""Default of the agent's `--ct-label`."""

MAX_CT_LABEL = 121
"""Leaves room for all of the agent's bits in a label of 128 bits, see `netpolq.enums.CONNECTION_LABEL_BITS`."""

SETS = {4: "pods_v4", 6: "pods_v6"}
"""The sets of ranges, by IP version."""

_PRIORITY = 10
"""After destination NAT (-100), so that the addresses are those of pods; before the agent's chain in the input hook (101)."""

_NEIGHBOUR_DISCOVERY = "icmpv6 type 133-137 ip6 hoplimit 255 accept"
"""Source: RFC 4861 sections 4 and 6.1: hop limit 255 proves that no router forwarded the packet."""

_OWN = ("meta skuid 0-4294967295 accept", "ct state established,related fib saddr type local accept")
"""Matches of the node's own packets: from an open socket of a process of any user; or from an address of the node, when the process has
closed the socket and the kernel ends the connection. The address alone would also match a packet with a forged source that IPVS
forwards."""


def render(ranges: Iterable[PodRange], *, ct_label: int = DEFAULT_CT_LABEL) -> str:
    """The script for `nft -f -` that installs the table or updates it, in one transaction.

    `ct_label`: the bit of the connection label that records an acceptance.
    """
    return "".join(f"{line}\n" for line in _lines(collapse(ranges), ct_label))


def render_ranges(ranges: Iterable[PodRange]) -> str:
    """The script that replaces the ranges of the existing table; its rules stay unchanged."""
    collapsed = collapse(ranges)
    return "".join(f"{line}\n" for version in SETS for line in _element_lines(version, collapsed))


def render_release() -> str:
    """The script that removes the table. It also succeeds if there is none."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


def _lines(ranges: tuple[PodRange, ...], ct_label: int) -> Iterator[str]:
    accepted = f"ct label {ct_label} accept"
    drop_source = ("ip saddr @pods_v4 counter name held drop", "ip6 saddr @pods_v6 counter name held drop")
    drop_destination = ("ip daddr @pods_v4 counter name held drop", "ip6 daddr @pods_v6 counter name held drop")
    chains = {
        "forward": (accepted, *drop_source, *drop_destination),
        # Replies that arrive at the node belong to its own connections.
        "input": ('iifname "lo" accept', accepted, "ct direction reply accept", _NEIGHBOUR_DISCOVERY, *drop_source),
        # What the kernel itself sends in answer (a reset, an ICMP error) has no socket, and has the direction of replies.
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
