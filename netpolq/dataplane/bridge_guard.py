"""The table `bridge netpolq`, which drops tagged frames that a bridge would carry between pods without evaluation.

br_netfilter passes IP packets to the IP hooks, but none behind a VLAN tag (or, with `bridge-nf-filter-vlan-tagged`, none behind two). The
kernel of the receiver treats a frame whose tag has the VLAN id 0 as untagged, and so on for the tags behind it: pods could bypass every
policy. This table drops such frames. A frame with another id reaches no address that a policy covers, unless the bridge removes the tag.
A bridge that removes tags filters VLANs, and then br_netfilter must process tagged packets: the agent reports it when it does not.
Source: br_nf_pre_routing in net/bridge/br_netfilter_hooks.c, skb_vlan_untag and __netif_receive_skb_core in net/core.

The table exists only while local pods are on a bridge.
"""

import asyncio
import logging
import struct

from collections.abc import Iterable, Mapping
from contextlib import suppress

from netpolq.dataplane.host_checks import are_vlans_filtered
from netpolq.dataplane.kernel_errors import RulesetError, explained
from netpolq.dataplane.nft_program import MAX_DEADLINE_S, run_nft
from netpolq.dataplane.pod_interfaces import NO_INTERFACES, PodInterfaces
from netpolq.dataplane.ruleset_names import TABLE
from netpolq.dataplane.ruleset_reads import read_counters, read_state
from netpolq.dataplane.set_elements import Elements, change_elements
from netpolq.dataplane.table_state import KnownElements, TableState
from netpolq.errors import NetpolqError
from netpolq.netlink.nftables import NFPROTO_BRIDGE, commit, remove_table

TAGGED = "tagged"
"""Counter of dropped frames."""

_PORTS = "pod_bridge_ports"
_CHAIN = "drop_tagged"
_OBJECTS = {f"table bridge {TABLE}", f"chain {_CHAIN}", f"rules of chain {_CHAIN}", f"set {_PORTS}", f"object {TAGGED}"}
"""Keys of the table's objects in `TableState`, without the set that nft makes for the list of values in the rule."""

_CHECK_INTERVAL_S = 1.0

log = logging.getLogger("enforcer")


class BridgeGuard:
    """Keeps the table in place. `problem`: why frames may pass between pods without evaluation, in one sentence, or None.

    It runs in a task of its own, because a slow `nft` must not delay policy changes.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._wanted = NO_INTERFACES
        self._is_wanted = asyncio.Event()
        self._is_removed = False
        self._expected: TableState | None = None
        self._known: KnownElements = {}

    def want(self, interfaces: PodInterfaces) -> None:
        """Schedule a change of the table to these bridges."""
        if interfaces == self._wanted:
            return
        self._wanted = interfaces
        if interfaces.bridge_ports and self._expected is None:
            self.problem = "VLAN-tagged frames between pods on a bridge are not dropped yet"
        self._is_wanted.set()

    async def run(self) -> None:
        """Keep the table in place until cancelled: after every change of bridges, and once a second to restore foreign changes."""
        while True:
            self._is_wanted.clear()
            await self.keep(self._wanted)
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_INTERVAL_S):
                    await self._is_wanted.wait()

    async def keep(self, interfaces: PodInterfaces) -> None:
        """Change the table to these bridges now. A failure becomes the problem until the next call."""
        try:
            await self._keep(interfaces.bridge_ports)
        except NetpolqError as error:
            self._expected = None
            self.problem = f"VLAN-tagged frames between pods on a bridge are not dropped: {error}"
            return
        self.problem = None
        if interfaces.vlan_aware and not are_vlans_filtered():
            self.problem = (
                f"bridge {', '.join(interfaces.vlan_aware)} filters VLANs, and packets with a VLAN tag are not evaluated: "
                "set net.bridge.bridge-nf-filter-vlan-tagged to 1"
            )

    async def counters(self) -> Mapping[str, int]:
        """Packets by named counter; empty while there is no table. Raises `PrivilegeError` or `RulesetError`."""
        return {} if self._expected is None else await asyncio.to_thread(read_counters, NFPROTO_BRIDGE)

    async def _keep(self, ports: frozenset[int]) -> None:
        if not ports:
            if not self._is_removed:
                await asyncio.to_thread(remove)
            self._is_removed, self._expected = True, None
            return
        self._is_removed = False
        state = await asyncio.to_thread(read_state, self._known, NFPROTO_BRIDGE)
        wanted = {_PORTS: frozenset(struct.pack("=I", port) for port in ports)}
        if self._expected is not None and (found := state.differences(self._expected)):
            log.warning("another process changed table bridge %s; restoring it: %s", TABLE, "; ".join(found[:3]))
        if self._expected is None or state.objects != self._expected.objects:
            await self._install(ports, state)
            self._expected = await asyncio.to_thread(read_state, self._known, NFPROTO_BRIDGE)
        elif state.elements != wanted:
            await asyncio.to_thread(_change, state.elements, wanted)
            self._expected = self._expected._replace(elements=wanted)

    async def _install(self, ports: frozenset[int], state: TableState) -> None:
        """Refill the table that an earlier agent has left; remove it first only if it has other objects, or cannot be refilled."""
        if self._expected is None and {key for key in state.objects if not key.startswith("set __")} == _OBJECTS:
            with suppress(RulesetError):
                await run_nft(render(ports, keeps_chain=True), MAX_DEADLINE_S)
                return
        await run_nft(render(ports), MAX_DEADLINE_S)


def render(ports: Iterable[int], *, keeps_chain: bool = False) -> str:
    """The nft script that installs the table and replaces an existing one. `ports`: interface indexes, at least one.

    `keeps_chain`: refill an existing table. To remove a base chain drops every packet of the network namespace that waits for a verdict.
    """
    table = f"bridge {TABLE}"
    empty = (
        f"flush set {table} {_PORTS}\nflush chain {table} {_CHAIN}" if keeps_chain else f"delete table {table}\nadd table {table}"
    )
    # nft reads the tag as it was on the wire, even if the kernel keeps it elsewhere: type at byte 12, id in the last 12 bits after it.
    is_priority_tag = "@ll,96,16 { 0x8100, 0x88a8 } @ll,116,12 0"
    return f"""\
add table {table}
{empty}
add counter {table} {TAGGED}
add set {table} {_PORTS} {{ type iface_index; }}
add element {table} {_PORTS} {{ {", ".join(map(str, sorted(ports)))} }}
add chain {table} {_CHAIN} {{ type filter hook forward priority 0; policy accept; }}
add rule {table} {_CHAIN} {is_priority_tag} oif @{_PORTS} counter name {TAGGED} drop
"""


@explained()
def remove() -> bool:
    """Remove the table. Returns whether it was there. Raises `PrivilegeError` or `RulesetError`."""
    return remove_table(TABLE, NFPROTO_BRIDGE)


@explained()
def _change(present: Elements, wanted: Elements) -> None:
    commit(change_elements(present, wanted, NFPROTO_BRIDGE))
