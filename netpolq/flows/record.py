"""Flow records: connections with the same ends, port, verdict and decisions, counted over a window; and their JSON form.

A record is one line of JSON wherever flows leave the agent: in the answer of the status socket, in a file, in what `netpolq flows` prints
into a pipe. `decode` reads such a line again. The labels of both pods are in the record, so that a file of flows needs no cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from netpolq.addresses import format_address, parse_address
from netpolq.decision import Decision, Isolation, RuleDecision, decision_fields
from netpolq.enums import Action, AuditVerdict, DenyWith, Direction, Tier
from netpolq.model import Labels, qualified_name

OTHER_ADDRESSES = "other"
"""In place of an address: addresses outside the cluster that were too many to be recorded one by one."""

RECORD_START = b'{"window_start":'
"""How the line of a record begins, and no other line of an agent's answer."""

_NO_LABELS = Labels()


class FlowVerdict(StrEnum):
    """What became of the connections, and what would have become of them.

    WOULD_DENY, WOULD_ACCEPT: they were accepted, or denied, and policies in audit would have decided otherwise (`AuditVerdict`).
    """

    ACCEPT = "accept"
    DENY = "deny"
    WOULD_DENY = AuditVerdict.WOULD_DENY.value
    WOULD_ACCEPT = AuditVerdict.WOULD_ACCEPT.value

    @property
    def is_enforced_accept(self) -> bool:
        """Whether the connections were accepted."""
        return self in {FlowVerdict.ACCEPT, FlowVerdict.WOULD_DENY}

    @property
    def is_changed_by_audit(self) -> bool:
        """Whether policies in audit would have decided otherwise."""
        return self in {FlowVerdict.WOULD_DENY, FlowVerdict.WOULD_ACCEPT}


class FlowEnd(NamedTuple):
    """One end of a flow. `address`: its text form, or `OTHER_ADDRESSES`. `namespace`, `pod`, `labels`: empty unless it is a pod's.

    `names`: domain names that the agent has learned for the address, sorted.
    """

    address: str
    namespace: str = ""
    pod: str = ""
    labels: Labels = _NO_LABELS
    names: tuple[str, ...] = ()

    @property
    def pod_name(self) -> str:
        """ns/name, or empty."""
        return qualified_name(self.namespace, self.pod) if self.pod else ""


OTHER_END = FlowEnd(OTHER_ADDRESSES)
"""The end that stands for such addresses."""


class Flow(NamedTuple):
    """What makes connections one flow, all in the original direction of the connection.

    `protocol`: its name, or its number as text. `port`: of the destination; None if the protocol has none, and where a denial stands for
    every port. `egress`, `ingress`: what decided in that direction; None: no policy did. `audit_egress`, `audit_ingress`: what would have
    decided with the policies in audit, None unless the verdict is one of `WOULD_*`.
    """

    source: FlowEnd
    destination: FlowEnd
    protocol: str
    port: int | None
    verdict: FlowVerdict
    egress: Decision | None = None
    ingress: Decision | None = None
    audit_egress: Decision | None = None
    audit_ingress: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecord:
    """A flow in one window. Times: seconds since 1970, UTC. `node`: of the agent that reports it.

    `connections`: first packets that were decided; a client that repeats a denied one counts each time. `packets`, `octets`: of both
    directions, where conntrack accounting is on, else None.
    """

    flow: Flow
    node: str
    window_start_s: float
    window_s: float
    first_seen_s: float
    last_seen_s: float
    connections: int
    packets: int | None = None
    octets: int | None = None


def encode(record: FlowRecord) -> bytes:
    """The record as one line of JSON, without its end."""
    return orjson.dumps(fields(record))


def fields(record: FlowRecord) -> dict[str, object]:
    """The record as JSON fields."""
    flow = record.flow
    audit = None
    if flow.audit_egress is not None or flow.audit_ingress is not None or flow.verdict.is_changed_by_audit:
        audit = {"egress": decision_fields(flow.audit_egress), "ingress": decision_fields(flow.audit_ingress)}
    return {
        "window_start": time_text(record.window_start_s),
        "window_s": record.window_s,
        "first_seen": time_text(record.first_seen_s),
        "last_seen": time_text(record.last_seen_s),
        "node": record.node,
        "verdict": flow.verdict.value,
        "source": _end_fields(flow.source),
        "destination": _end_fields(flow.destination),
        "protocol": flow.protocol,
        "port": flow.port,
        "egress": decision_fields(flow.egress),
        "ingress": decision_fields(flow.ingress),
        "audit": audit,
        "connections": record.connections,
        "packets": record.packets,
        "bytes": record.octets,
    }


def decode(line: bytes | str) -> FlowRecord:
    """The record in one line of JSON. Raises `ValueError`, which names the field."""
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not a JSON object: {error}") from error
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")  # what is wrong is the input
    fields_of = _Fields(body, "")
    audit = fields_of.optional_object("audit")
    return FlowRecord(
        flow=Flow(
            source=_end(fields_of.object("source")),
            destination=_end(fields_of.object("destination")),
            protocol=fields_of.text("protocol"),
            port=fields_of.optional_number("port", 0xFFFF),
            verdict=_verdict(fields_of.text("verdict")),
            egress=_decision(fields_of, "egress", Direction.EGRESS),
            ingress=_decision(fields_of, "ingress", Direction.INGRESS),
            audit_egress=None if audit is None else _decision(audit, "egress", Direction.EGRESS),
            audit_ingress=None if audit is None else _decision(audit, "ingress", Direction.INGRESS),
        ),
        node=fields_of.text("node"),
        window_start_s=fields_of.time("window_start"),
        window_s=fields_of.seconds("window_s"),
        first_seen_s=fields_of.time("first_seen"),
        last_seen_s=fields_of.time("last_seen"),
        connections=fields_of.number("connections"),
        packets=fields_of.optional_number("packets"),
        octets=fields_of.optional_number("bytes"),
    )


def time_text(time_s: float) -> str:
    """The text of a Unix time in records: RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _end_fields(end: FlowEnd) -> dict[str, object]:
    return {
        "address": end.address,
        "namespace": end.namespace or None,
        "pod": end.pod or None,
        "labels": dict(end.labels),
        "names": end.names,
    }


class _Fields:
    """The fields of a JSON object, read with a check of their types. `path`: of the object, for errors. All raise `ValueError`."""

    def __init__(self, body: Mapping[str, Any], path: str) -> None:
        self._body = body
        self._path = path

    def _take(self, name: str, kinds: tuple[type, ...], wanted: str) -> Any:  # the JSON value, of one of the kinds
        value = self._body.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"field {self._path}{name}: must be {wanted}")
        return value

    def text(self, name: str) -> str:
        text: str = self._take(name, (str,), "text")
        return text

    def optional_text(self, name: str) -> str:
        return "" if self._body.get(name) is None else self.text(name)

    def number(self, name: str, most: int = 1 << 63) -> int:
        number: int = self._take(name, (int,), "a number")
        if not 0 <= number <= most:
            raise ValueError(f"field {self._path}{name}: must be between 0 and {most}")
        return number

    def optional_number(self, name: str, most: int = 1 << 63) -> int | None:
        return None if self._body.get(name) is None else self.number(name, most)

    def seconds(self, name: str) -> float:
        return float(self._take(name, (int, float), "a number"))

    def time(self, name: str) -> float:
        text = self.text(name)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError(f"field {self._path}{name}: {text[:40]!r} is not a time (RFC 3339)") from error
        if moment.tzinfo is None:
            raise ValueError(f"field {self._path}{name}: {text[:40]!r} has no time zone")
        return moment.timestamp()

    def object(self, name: str) -> "_Fields":
        return _Fields(self._take(name, (dict,), "an object"), f"{self._path}{name}.")

    def optional_object(self, name: str) -> "_Fields | None":
        return None if self._body.get(name) is None else self.object(name)

    def texts(self, name: str) -> tuple[str, ...]:
        texts: list[Any] = self._take(name, (list,), "a list of texts")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"field {self._path}{name}: must be a list of texts")
        return tuple(texts)

    def text_map(self, name: str) -> Labels:
        texts: dict[str, Any] = self._take(name, (dict,), "an object of texts")
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"field {self._path}{name}: must be an object of texts")
        return Labels(texts)

    def has(self, name: str) -> bool:
        return self._body.get(name) is not None


def _end(end: _Fields) -> FlowEnd:
    address = end.text("address")
    if address != OTHER_ADDRESSES:
        try:
            address = format_address(parse_address(address))
        except ValueError as error:
            raise ValueError(f"field address: {error}") from error
    return FlowEnd(address, end.optional_text("namespace"), end.optional_text("pod"), end.text_map("labels"), end.texts("names"))


def _verdict(text: str) -> FlowVerdict:
    try:
        return FlowVerdict(text)
    except ValueError as error:
        raise ValueError(f"field verdict: {text[:40]!r} is none of {', '.join(FlowVerdict)}") from error


def _decision(body: _Fields, name: str, direction: Direction) -> Decision | None:
    found = body.optional_object(name)
    if found is None:
        return None
    is_rejected = found.optional_text("deny_with") == DenyWith.REJECT.value
    if found.has("isolated_by"):
        return Isolation(direction, found.texts("isolated_by"), is_rejected)
    tiers = {tier.label: tier for tier in Tier}
    actions = {action.name.lower(): action for action in (Action.ACCEPT, Action.DENY)}
    tier, action = tiers.get(found.text("tier")), actions.get(found.text("action"))
    if tier is None or action is None:
        raise ValueError(f"field {name}: its tier must be one of {', '.join(tiers)}, its action one of {', '.join(actions)}")
    return RuleDecision(
        direction, tier, found.text("policy"), found.number("rule"), action, found.optional_text("rule_name"), is_rejected
    )
