"""Filters of the pages that show flows: a query, as a value, and the links and flows that match it. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netpolq.flows.record import FlowVerdict
from netpolq.ui.state.history import History, KeptFlow, Link
from netpolq.ui.state.minutes import minute_of

SINCE_S = (60, 300, 900, 3600)
DEFAULT_SINCE_S = 300
MAX_TEXT = 2000
"""Characters of a value. The name of a workload may have labels."""

MAX_VALUES = 64
"""Values of one parameter."""

_REPEATED = frozenset({"namespace", "verdict"})
_SINGLE = frozenset({"since", "text", "source", "destination", "port", "protocol"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a flow must have; an empty field asks for nothing.

    `namespaces`: of one of its ends. `text`: in lower case, part of the name of a workload, pod or policy, or of the address of an end
    that is no pod. `source`, `destination`: ids of workloads. `port`: of the destination.
    """

    since_s: int = DEFAULT_SINCE_S
    namespaces: frozenset[str] = frozenset()
    verdicts: frozenset[FlowVerdict] = frozenset()
    text: str = ""
    source: str = ""
    destination: str = ""
    port: int | None = None
    protocol: str = ""

    @classmethod
    def from_query(cls, query: Sequence[tuple[str, str]]) -> "Filters":
        """The filters of a query. Raises `ValueError`, which names the parameter and what is allowed."""
        values: dict[str, list[str]] = {}
        for name, value in query:
            if name not in _REPEATED | _SINGLE:
                allowed = ", ".join(sorted(_REPEATED | _SINGLE))
                raise ValueError(f"parameter {name[:40]!r} does not exist; allowed: {allowed}")
            values.setdefault(name, []).append(value)
            if len(values[name]) > (MAX_VALUES if name in _REPEATED else 1):
                raise ValueError(f"parameter {name}: is given too often; allowed: {MAX_VALUES if name in _REPEATED else 1}")
            if len(value) > MAX_TEXT:
                raise ValueError(f"parameter {name}: is longer than any name; allowed: {MAX_TEXT} characters")

        def one(name: str) -> str:
            return values.get(name, [""])[0]

        return cls(
            since_s=_since(one("since")),
            namespaces=frozenset(filter(None, values.get("namespace", ()))),
            verdicts=frozenset(map(_verdict, filter(None, values.get("verdict", ())))),
            text=one("text").strip().lower(),
            source=one("source"),
            destination=one("destination"),
            port=_port(one("port")),
            protocol=one("protocol").upper(),
        )

    def first_minute(self, now_s: float) -> int:
        """The first minute that counts."""
        return minute_of(now_s - self.since_s)

    def may_match(self, link: Link) -> bool:
        """Whether flows of a link match, apart from the text."""
        key = link.key
        return (
            (not self.verdicts or key.verdict in self.verdicts)
            and (not self.namespaces or key.source.namespace in self.namespaces or key.destination.namespace in self.namespaces)
            and (not self.source or key.source.id == self.source)
            and (not self.destination or key.destination.id == self.destination)
            and (self.port is None or key.port == self.port)
            and (not self.protocol or key.protocol.upper() == self.protocol)
        )

    def text_is_in(self, link: Link) -> bool:
        """Whether the text is in what all flows of a link have."""
        texts = (link.key.source.id, link.key.destination.id, *link.policies)
        return any(self.text in text.lower() for text in texts)

    def ends_with_text(self, history: History) -> frozenset[int]:
        """The identities of the ends whose name or address has the text. Equal ends of kept flows are one object."""
        return frozenset(id(end) for end in history.ends.values() if self.text in (end.pod_name or end.address).lower())


class Matching(NamedTuple):
    """What matches of a link. `flows`: None: all of them."""

    link: Link
    connections: int
    last_seen_s: float
    flows: tuple[KeptFlow, ...] | None = None


def matching(history: History, filters: Filters, now_s: float) -> Iterator[Matching]:
    """The links with flows that match, and that were seen in the time that the filters ask for."""
    history.workloads.name_all()
    from_s, minute = now_s - filters.since_s, filters.first_minute(now_s)
    ends = filters.ends_with_text(history) if filters.text else frozenset()
    asks_for_links = filters != Filters(since_s=filters.since_s, text=filters.text)
    for link in history.links.values():
        if link.last_seen_s < from_s or (asks_for_links and not filters.may_match(link)):
            continue
        if not filters.text or filters.text_is_in(link):
            yield Matching(link, link.counts.since(minute), link.last_seen_s)
            continue
        flows = tuple(kept for kept in link.flows if kept.last_seen_s >= from_s and _has_end(kept, ends))
        if flows:
            connections = sum(kept.since(minute).connections for kept in flows)
            yield Matching(link, connections, max(kept.last_seen_s for kept in flows), flows)


def _has_end(kept: KeptFlow, ends: frozenset[int]) -> bool:
    return id(kept.flow.source) in ends or id(kept.flow.destination) in ends


def _since(text: str) -> int:
    if not text:
        return DEFAULT_SINCE_S
    if text not in map(str, SINCE_S):
        raise ValueError(f"parameter since: {text[:40]!r} is not allowed; allowed: {', '.join(map(str, SINCE_S))} seconds")
    return int(text)


def _verdict(text: str) -> FlowVerdict:
    try:
        return FlowVerdict(text)
    except ValueError:
        raise ValueError(f"parameter verdict: {text[:40]!r} is not allowed; allowed: {', '.join(FlowVerdict)}") from None


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError(f"parameter port: {text[:40]!r} is not allowed; allowed: 0 to 65535")
    return int(text)
