"""Inputs of the ruleset: its configuration, and the elements of its sets."""

from dataclasses import dataclass

from netpolq.addresses import format_address, is_ipv4
from netpolq.dataplane.pod_interfaces import NO_INTERFACES, PodInterfaces
from netpolq.enums import Dataplane, NodeEgress
from netpolq.hold.ranges import PodRange


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesetConfig:
    """Configuration of the ruleset: everything except addresses and interfaces.

    `mark_mask`: exactly three adjacent bits of the packet mark; `ct_label`: the first of seven adjacent bits of the connection's label.
    `dns_in_prerouting`: evaluate DNS over UDP before routing (see `netpolq.dataplane.host_checks`). `form`: NATIVE or COMPAT, never
    AUTO. `verdict_cache`: look packets up in the verdict maps before they are queued; `counts_verdicts`: count the packets of each
    element. `pod_ranges`, `pod_interfaces` (each a name, or a start followed by `*`): where the pods of this node are; without them no
    address counts as unknown. `dns_queue`: number of the queue of DNS messages of pods with domain names in their policies; None: DNS
    is evaluated as anything else. `rejects`: note the original destination of packets before they are queued, for answers to denied
    ones.
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
    counts_verdicts: bool = False
    pod_ranges: tuple[PodRange, ...] = ()
    pod_interfaces: tuple[str, ...] = ()
    dns_queue: int | None = None
    rejects: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolatedSets:
    """Elements of the sets of the table.

    `ingress`, `egress`: address keys, of both families, of the local pods that are isolated in a direction. `local`: those of all local
    pods. `known`: those of which no new connection waits; the kernel has those of them that are not isolated in a further set. `asking`:
    those of the local pods with domain names in their policies; the kernel has them among the isolated ones, too, so that packets of other
    pods need no look into one more set.
    `interfaces`: those that lead to these pods (`netpolq.dataplane.pod_interfaces`).
    """

    ingress: frozenset[bytes]
    egress: frozenset[bytes]
    local: frozenset[bytes] = frozenset()
    known: frozenset[bytes] = frozenset()
    asking: frozenset[bytes] = frozenset()
    interfaces: PodInterfaces = NO_INTERFACES

    def by_set_name(self) -> dict[str, frozenset[str]]:
        """The elements of each of the sets, in text form."""
        addresses = {
            "isolated_ingress": self.ingress,
            "isolated_egress": self.egress | self.asking,
            "local": self.local,
            "known": self.known,
            "unisolated": self.known - self.ingress - self.egress - self.asking,
            "asking": self.asking,
        }
        found = {
            f"{name}_{family}": frozenset(format_address(key) for key in keys if is_ipv4(key) is (family == "v4"))
            for name, keys in addresses.items()
            for family in ("v4", "v6")
        }
        for name, members in found.items():
            if (size := set_size(name)) is not None and len(members) > size:
                found[name] = frozenset(sorted(members)[:size])  # the others count as unknown
        interfaces = self.interfaces
        indexes = (interfaces.pods, interfaces.isolated_ingress, interfaces.isolated_egress, interfaces.upper)
        found |= {name: frozenset(map(str, ones)) for name, ones in zip(_INTERFACE_SETS, indexes, strict=True)}
        for family, name in (("v4", SOURCES_V4), ("v6", SOURCES_V6)):
            pairs = interfaces.sources
            found[name] = frozenset(
                f"{index} . {format_address(key)}" for index, key in pairs if is_ipv4(key) is (family == "v4")
            )
        return found


UPPER_INTERFACES = "upper_interfaces"
_INTERFACE_SETS = ("pod_interfaces", "isolated_ingress_interfaces", "isolated_egress_interfaces", UPPER_INTERFACES)
"""Sets of interface indexes."""

SOURCES_V4, SOURCES_V6 = "pod_sources_v4", "pod_sources_v6"
"""Sets of an interface index and an address."""


MAX_KNOWN = 16384
"""Maximum number of known addresses of a family. The kernel finds an address faster in a set of fixed size, which takes 256 KiB."""


def set_size(name: str) -> int | None:
    """The fixed size of a set, or None."""
    return MAX_KNOWN if name.startswith(("known_", "unisolated_")) else None


def set_type(name: str) -> str:
    """The nftables type of the elements of a set."""
    if name in _INTERFACE_SETS:
        return "iface_index"
    address = "ipv4_addr" if name.endswith("v4") else "ipv6_addr"
    return f"iface_index . {address}" if name in {SOURCES_V4, SOURCES_V6} else address
