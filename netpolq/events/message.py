"""The message of an Event: the peer, the ports, what denied the connections, and how many they were."""

from netpolq.decision import Isolation, decision_text
from netpolq.enums import Direction
from netpolq.events.series import MAX_ADDRESSES, MAX_PORTS, OTHER_PEERS, Reason, Series

MAX_MESSAGE_BYTES = 1024
"""Source: `NoteLengthLimit` of k8s.io/kubernetes/pkg/apis/core/validation/events.go."""

_MAX_NAMED_POLICIES = 5
_CUT = "…"
_UNPRINTABLE = "?"


def message_of(series: Series) -> str:
    """The message. At most `MAX_MESSAGE_BYTES` of printable text; the number of connections is never cut."""
    key = series.key
    direction = key.direction.name.lower()
    ends = ("to", "on") if key.direction is Direction.EGRESS else ("from", "to")
    denied = "denied" if key.reason is Reason.DENIED else "would be denied"
    text = f"{direction} {ends[0]} {_peer(series)} {ends[1]} {_ports(series)} {denied}: {_why(series)}"
    ending = f" ({_count(series)})"
    return _bounded(_printable(text), MAX_MESSAGE_BYTES - len(ending.encode())) + ending


def _peer(series: Series) -> str:
    key, number = series.key, len(series.addresses)
    if key.peer == OTHER_PEERS:
        more = "more than " if number >= MAX_ADDRESSES else ""
        return f"{more}{number} other address{'' if number == 1 else 'es'}"
    if key.is_outside:
        return key.peer
    first = next(iter(series.addresses))
    return f"{key.peer} ({first})" if number == 1 else f"{key.peer} ({first} and {number - 1} more)"


def _ports(series: Series) -> str:
    *named, last = series.ports
    if not named:
        return last
    if len(series.ports) == MAX_PORTS:
        return f"{', '.join(named)} and others"
    return f"{', '.join(named)} and {last}"


def _why(series: Series) -> str:
    decision, more = series.decision, ""
    if isinstance(decision, Isolation) and len(decision.policies) > _MAX_NAMED_POLICIES:
        more = f" and {len(decision.policies) - _MAX_NAMED_POLICIES} more"
        decision = decision._replace(policies=decision.policies[:_MAX_NAMED_POLICIES])
    return decision_text(decision).removeprefix(f"{decision.direction.name.lower()} ").removeprefix("denied ") + more


def _count(series: Series) -> str:
    if series.connections == 1:
        return "1 connection"
    return f"{series.connections} connections in {_duration(series.last_s - series.first_s)}"


def _duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes, then hours, rounded down; at least one second."""
    for unit_s, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{int(seconds // unit_s)} {name}"
    return f"{max(1, int(seconds))} s"


def _printable(text: str) -> str:
    """The text with each character that is not printable replaced: a rule's name may be any text."""
    return "".join(character if character.isprintable() else _UNPRINTABLE for character in text)


def _bounded(text: str, max_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT
