"""Port ranges within which no policy distinguishes ports, so that one evaluation answers for all ports of a range."""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from netpolq.enums import Protocol
from netpolq.explain.flow import protocol_name
from netpolq.reachability.rules import rules_of
from netpolq.store import Store

MIN_PORT = 1
MAX_PORT = 65535
_ICMP = 1


class PortRange(NamedTuple):
    """Ports of a protocol, `last` included. Flows are evaluated at `first`, which is 0 for a protocol without ports."""

    protocol: int
    first: int
    last: int


OTHER_PROTOCOLS = PortRange(_ICMP, 0, 0)
"""Every protocol without ports. No policy can name one, so all of them are treated like ICMP."""


def distinguished(stores: Iterable[Store], protocol: Protocol | None = None) -> tuple[PortRange, ...]:
    """Return ranges that together have every port of a protocol, or of all protocols and `OTHER_PROTOCOLS`.

    Within a range no policy of the stores distinguishes ports. A named port stands for its numbers at all pods.
    """
    starts = {number: {MIN_PORT, MAX_PORT + 1} for number in (Protocol if protocol is None else (protocol,))}
    for store in stores:
        entries = {entry for rule in rules_of(store) for entry in rule.ports or ()}
        names = {(entry.port, entry.protocol) for entry in entries}
        for entry in entries:
            if entry.protocol in starts and isinstance(entry.port, int):
                starts[entry.protocol] |= _edges(entry.port, entry.end_port or entry.port)
        for pod in store.pods.values():
            for name, of, number in pod.named_ports:
                if of in starts and (name, of) in names:
                    starts[of] |= _edges(number, number)
    ranges = [PortRange(number, first, after - 1) for number, edges in starts.items() for first, after in pairwise(sorted(edges))]
    return (*ranges, OTHER_PROTOCOLS) if protocol is None else tuple(ranges)


def _edges(first: int, last: int) -> set[int]:
    return {edge for edge in (first, last + 1) if MIN_PORT <= edge <= MAX_PORT}


def joined(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """Return ranges in order, with adjacent ones as one."""
    result: list[PortRange] = []
    for item in sorted(ranges, key=lambda item: (item == OTHER_PROTOCOLS, item)):
        if result and result[-1].protocol == item.protocol and result[-1].last + 1 == item.first:
            result[-1] = result[-1]._replace(last=item.last)
        else:
            result.append(item)
    return tuple(result)


def ports_text(ranges: Iterable[PortRange]) -> str:
    """Return ranges in words: `TCP 80, 8000-9000; UDP; other protocols`. A protocol alone stands for all of its ports."""
    words: dict[str, list[str]] = {}
    for item in joined(ranges):
        is_other = item == OTHER_PROTOCOLS
        numbers = words.setdefault("other protocols" if is_other else protocol_name(item.protocol), [])
        if not is_other and (item.first, item.last) != (MIN_PORT, MAX_PORT):
            numbers.append(str(item.first) if item.first == item.last else f"{item.first}-{item.last}")
    return "; ".join(f"{name} {', '.join(numbers)}".rstrip() for name, numbers in words.items())


def port_fields(ranges: Iterable[PortRange]) -> list[dict[str, object]]:
    """Return ranges for JSON, with the fields of `NetworkPolicyPort`. The protocol `other` has no ports."""
    return [
        {"protocol": "other", "port": None, "endPort": None}
        if item == OTHER_PROTOCOLS
        else {"protocol": protocol_name(item.protocol), "port": item.first, "endPort": item.last}
        for item in joined(ranges)
    ]
