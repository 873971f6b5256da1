"""Chains that queue new connections of addresses that should be those of pods of this node, but that the agent does not know yet.

Such an address lies in the node's pod ranges, or is at a pod interface, and is in none of the sets of known addresses. Link-local,
unspecified, multicast and broadcast addresses are never those of a pod.
"""

from collections.abc import Iterator

from netpolq.dataplane.original_chains import note_original
from netpolq.dataplane.rule_terms import HEADERS, Chain, MarkStatements
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import ENQUEUE
from netpolq.enums import PacketMark
from netpolq.hold.ranges import collapse

_VERSIONS = {"v4": 4, "v6": 6}
_NO_PODS = {
    "v4": "{ 0.0.0.0, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255 }",
    "v6": "{ ::, fe80::/10, ff00::/8 }",
}
_STATES = {
    "unknown_source": PacketMark.UNKNOWN_SOURCE,
    "unknown_destination": PacketMark.UNKNOWN_DESTINATION,
    "unknown_both": PacketMark.UNKNOWN_BOTH,
}
_ENDS = {"saddr": "iifname", "daddr": "oifname"}
"""The ends of a packet, and what its interface at each of them is called."""

_IS_NEW = "ct state new,untracked"
_ROUTED_TO = "fib daddr oifname"


def has_unknown(config: RulesetConfig) -> bool:
    """Whether an address can be unknown."""
    return bool(config.pod_ranges or config.pod_interfaces)


def unknown_rules(config: RulesetConfig) -> dict[str, tuple[str, ...]]:
    """The rules, by family, that accept packets of known, unisolated pods, and queue new connections with an unknown end.

    Packets of unisolated pods come first, and have to pay for no more look-ups than without these rules: one for each end. The state of the
    connection is asked for last, because most addresses are known. None if no address can be unknown.
    """
    return {family: (*_accept_unisolated(config, family), *_rules(config, family)) for family in HEADERS}


def _accept_unisolated(config: RulesetConfig, family: str) -> tuple[str, ...]:
    """Rules that accept what a known, unisolated pod exchanges with another one, or with an address that is not that of an isolated pod."""
    header = HEADERS[family]
    pods = {end: _pods(config, family, end, interface) for end, interface in _ENDS.items()}
    if not pods["saddr"]:
        return ()
    # Comparing is cheaper than a look-up that finds nothing.
    in_range = {end: f"{matches[0]} " if len(matches) == 1 else "" for end, matches in pods.items()}
    return (
        f"{in_range['saddr']}{header} saddr @unisolated_{family} jump from_unisolated_{family}",
        f"{in_range['daddr']}{header} daddr @unisolated_{family} {_no_pod(config, family, 'saddr')} "
        f"{header} saddr != @isolated_egress_{family} accept",
    )


def _from_unisolated(config: RulesetConfig, family: str) -> tuple[str, ...]:
    header = HEADERS[family]
    return (
        f"{_no_pod(config, family, 'daddr')} {header} daddr != @isolated_ingress_{family} accept",
        f"{header} daddr @unisolated_{family} accept",
    )


def _no_pod(config: RulesetConfig, family: str, end: str) -> str:
    """The match of packets without an address of this node's pods at an end."""
    return " ".join(_pods(config, family, end, _ENDS[end], "!= "))


def unknown_rules_before_routing(config: RulesetConfig) -> tuple[str, ...]:
    """The rules of both families where the output interface is not known yet: the routing table is asked for it."""
    if not config.pod_interfaces:
        return ()
    return tuple(rule for family in HEADERS for rule in _rules(config, family, "dns_", _ROUTED_TO))


def unknown_source_rules(config: RulesetConfig) -> dict[str, tuple[str, ...]]:
    """The rules, by family, that queue a new connection from an unknown address to the node."""
    return {
        family: tuple(f"{match} goto unknown_source" for match in _unknown(config, family, "saddr", "iifname"))
        for family in HEADERS
    }


def _rules(config: RulesetConfig, family: str, prefix: str = "", output: str = "oifname") -> tuple[str, ...]:
    return (
        *(f"{match} goto {prefix}unknown_source_{family}" for match in _unknown(config, family, "saddr", "iifname")),
        *(f"{match} goto unknown_destination" for match in _unknown(config, family, "daddr", output)),
    )


def unknown_chains(config: RulesetConfig, marks: MarkStatements) -> Iterator[Chain]:
    """Chains that mark and queue; none if no address can be unknown.

    The label remembers that the first packet was queued, because its addresses may be known when it leaves the queue.
    """
    if not has_unknown(config):
        return
    for family in HEADERS:
        if _pods(config, family, "daddr", "oifname"):
            yield Chain(f"from_unisolated_{family}", "", _from_unisolated(config, family))
    for name, state in _STATES.items():
        queued = (f"{marks.is_set} jump keep_field", marks.put(state), marks.hold_connection, f"jump {ENQUEUE}", "accept")
        yield Chain(name, "", (*note_original(config), *queued))
    outputs = {"": "oifname"} | ({"dns_": _ROUTED_TO} if config.dns_in_prerouting and config.pod_interfaces else {})
    for prefix, output in outputs.items():
        for family in HEADERS:
            if _pods(config, family, "saddr", "iifname"):
                both = tuple(f"{match} goto unknown_both" for match in _unknown(config, family, "daddr", output))
                yield Chain(f"{prefix}unknown_source_{family}", "", (*both, "goto unknown_source"))


def unknown_untracked(config: RulesetConfig) -> dict[str, tuple[str, ...]]:
    """Matches, by family, of packets without a connection that were queued, because an end is unknown and still is."""
    return {
        family: tuple(
            match for end, interface in _ENDS.items() for match in _unknown(config, family, end, interface, "ct state untracked")
        )
        for family in HEADERS
    }


def _unknown(config: RulesetConfig, family: str, end: str, interface: str, state: str = _IS_NEW) -> list[str]:
    """Matches of a packet in a state with an unknown address at an end. What is rarely asked for stands last."""
    address = f"{HEADERS[family]} {end}"
    no_broadcast = " fib daddr type != broadcast" if (family, end) == ("v4", "daddr") else ""
    return [
        f"{pods} {address} != @known_{family} {state} {address} != {_NO_PODS[family]}{no_broadcast}"
        for pods in _pods(config, family, end, interface)
    ]


def _pods(config: RulesetConfig, family: str, end: str, interface: str, operator: str = "") -> list[str]:
    """Matches of a packet with an address of this node's pods at an end, each of them one comparison; with `!= `, their opposites."""
    ranges = [str(block) for block in collapse(config.pod_ranges) if block.version == _VERSIONS[family]]
    in_ranges = ranges[0] if len(ranges) == 1 else f"{{ {', '.join(ranges)} }}"
    return [
        *([f"{HEADERS[family]} {end} {operator}{in_ranges}"] if ranges else []),
        *(f'{interface} {operator}"{name}"' for name in config.pod_interfaces),
    ]
