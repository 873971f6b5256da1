"""Terms of rules that several chains share: hooks, matches of isolated pods, and statements on marks and labels."""

from typing import NamedTuple

from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.enums import ConnectionLabel, PacketMark

_FIELD_BITS = 3

NEIGHBOUR_DISCOVERY = "icmpv6 type 133-137 ip6 hoplimit 255 accept"
"""Source: RFC 4861 sections 4 and 6.1: hop limit 255 proves that no router forwarded the packet."""


class Chain(NamedTuple):
    """A chain and its rules. `hook`: hook and priority of a base chain, empty for one that is only jumped to."""

    name: str
    hook: str
    rules: tuple[str, ...]


class MarkStatements:
    """Matches and statements on the field, which is the agent's three bits of the packet mark, and on the connection's label."""

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
        held = config.ct_label + ConnectionLabel.HELD
        self.first_was_held = f"ct state new ct label {held}"
        self.hold_connection = f"ct label set {held}"
        early = config.ct_label + ConnectionLabel.BEFORE_ROUTING
        self.is_evaluated_before_routing = f"ct label {early}"
        self.evaluate_before_routing = f"ct label set {early}"
        # Each bit of the field, and the bit of the label that saves its value while the field holds the agent's state.
        self.kept = [
            (_hexadecimal(1 << self._shift + offset), config.ct_label + ConnectionLabel.KEPT_MARK + offset)
            for offset in range(_FIELD_BITS)
        ]

    def equals(self, state: PacketMark) -> str:
        return f"meta mark & {_hexadecimal(self._mask)} == {_hexadecimal(state << self._shift)}"

    def differs(self, state: PacketMark) -> str:
        return f"meta mark & {_hexadecimal(self._mask)} != {_hexadecimal(state << self._shift)}"

    def put(self, state: PacketMark) -> str:
        return f"{self.clear} | {_hexadecimal(state << self._shift)}"


HEADERS = {"v4": "ip", "v6": "ip6"}
"""The header of each family, as nft names it."""


def isolated_matches(direction: str) -> dict[str, tuple[str, ...]]:
    """Matches of packets that a worker evaluates, by family: of an end isolated for ingress, then of one isolated for egress.

    `direction`: of the packet within its connection, "to_node" to the node, where nothing is isolated for ingress.
    """
    ends = {
        "original": (("daddr", "ingress"), ("saddr", "egress")),
        "reply": (("saddr", "ingress"), ("daddr", "egress")),
        "to_node": (("saddr", "egress"),),
    }[direction]
    return {
        family: tuple(f"{header} {end} @isolated_{isolation}_{family}" for end, isolation in ends)
        for family, header in HEADERS.items()
    }


def base_hook(hook: str, priority: int) -> str:
    """The definition of a base chain that accepts at its end, as it follows the name of the chain."""
    return f" {{ type filter hook {hook} priority {priority}; policy accept; }}"


def _hexadecimal(number: int) -> str:
    return f"0x{number:08x}"
