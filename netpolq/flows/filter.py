"""Filters of flow records: which records `netpolq flows` and the status socket return."""

import re

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from netpolq.decision import Decision, Isolation
from netpolq.flows.record import OTHER_ADDRESSES, Flow, FlowEnd, FlowVerdict

_PORT = re.compile(r"(?:(?P<port>[0-9]{1,5})(?:/(?P<protocol>[A-Za-z0-9]+))?|(?P<only_protocol>[A-Za-z][A-Za-z0-9]*))")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
"""Source: names in the Kubernetes API: a namespace's is an RFC 1123 label, without dots, which keeps it apart from an address."""

_DOMAIN = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9._-]*[a-z0-9])?\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFilter:
    """What a record must have; an empty field asks for nothing.

    `pod`: ns/name, or ns/ and the start of names followed by `*`, at either end. `namespace`: of either end. `source`, `destination`: a
    namespace, ns/name, an address or a range, or a learned name at that end. `policy`: ns/name, or the qualified name of a cluster-wide
    policy, that decided in either direction or in audit. `port`: of the destination, as PORT, PORT/PROTOCOL or PROTOCOL. `denied`: only
    what was denied, or would be.
    """

    pod: str = ""
    namespace: str = ""
    source: str = ""
    destination: str = ""
    policy: str = ""
    port: str = ""
    denied: bool = False

    def check(self) -> None:
        """Raises `ValueError`, which names the field, for a value that no record can match."""
        if self.pod and not _is_pod_name(self.pod):
            raise ValueError(f"pod: {self.pod!r} must be NAMESPACE/NAME, where NAME may end with *")
        if self.namespace and not _NAMESPACE.fullmatch(self.namespace):
            raise ValueError(f"namespace: {self.namespace!r} is no name of a namespace")
        for field in ("source", "destination"):
            text = getattr(self, field)
            if text and not _is_end(text):
                raise ValueError(
                    f"{field}: {text!r} must be NAMESPACE, NAMESPACE/NAME, an address, a range of addresses or a domain name"
                )
        if self.port:
            self._port()

    def to_query(self) -> dict[str, str]:
        """The fields that ask for something, as texts."""
        return {name: "true" if value is True else value for name, value in asdict(self).items() if value}

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "FlowFilter":
        """The filter of `to_query`. Raises `ValueError` for an unknown field or a wrong value."""
        for name in query:
            if name not in cls.__dataclass_fields__:
                raise ValueError(f"{name}: unknown; allowed: {', '.join(cls.__dataclass_fields__)}")
        if query.get("denied", "true") != "true":
            raise ValueError("denied: must be true")
        wanted = cls(**{**query, "denied": "denied" in query})  # type: ignore[arg-type]  # a dictionary of texts and one bool
        wanted.check()
        return wanted

    def matches(self, flow: Flow) -> bool:
        """Whether a flow has all that the filter asks for."""
        ends = flow.source, flow.destination
        return (
            (not self.denied or flow.verdict is not FlowVerdict.ACCEPT)
            and (not self.namespace or any(end.namespace == self.namespace for end in ends))
            and (not self.pod or any(_is_pod(end, self.pod) for end in ends))
            and (not self.source or _matches_end(flow.source, self.source))
            and (not self.destination or _matches_end(flow.destination, self.destination))
            and (not self.policy or self.policy in policies_of(flow))
            and (not self.port or self._port() in _ports_of(flow))
        )

    def _port(self) -> tuple[int | None, str | None]:
        found = _PORT.fullmatch(self.port)
        if found is None or int(found["port"] or 0) > 0xFFFF:
            raise ValueError(f"port: {self.port!r} must be PORT, PORT/PROTOCOL or PROTOCOL, such as 443, 53/UDP or ICMP")
        protocol = found["protocol"] or found["only_protocol"]
        return None if found["port"] is None else int(found["port"]), None if protocol is None else protocol.upper()


def policies_of(flow: Flow) -> frozenset[str]:
    """The names of all policies that decided, or would have."""
    decisions = (flow.egress, flow.ingress, flow.audit_egress, flow.audit_ingress)
    return frozenset(name for decision in decisions for name in _policies(decision))


def _policies(decision: Decision | None) -> Iterable[str]:
    match decision:
        case None:
            return ()
        case Isolation(_, policies):
            return policies
        case _:
            return (decision.policy,)


def _ports_of(flow: Flow) -> set[tuple[int | None, str | None]]:
    protocol = flow.protocol.upper()
    return {(flow.port, None), (flow.port, protocol), (None, protocol)} - {(None, None)}


def _is_pod_name(text: str) -> bool:
    namespace, _slash, name = text.partition("/")
    start = name.removesuffix("*").rstrip("-.")
    return _NAMESPACE.fullmatch(namespace) is not None and (name == "*" or _NAME.fullmatch(start) is not None)


def _is_pod(end: FlowEnd, wanted: str) -> bool:
    namespace, _slash, name = wanted.partition("/")
    if end.namespace != namespace or not end.pod:
        return False
    return end.pod.startswith(name[:-1]) if name.endswith("*") else end.pod == name


def _is_end(text: str) -> bool:
    if _network(text) is not None:
        return True
    return _is_pod_name(text) if "/" in text else _DOMAIN.fullmatch(text) is not None


def _matches_end(end: FlowEnd, wanted: str) -> bool:
    network = _network(wanted)
    if network is not None:
        return end.address != OTHER_ADDRESSES and ip_address(end.address) in network
    if "/" in wanted:
        return _is_pod(end, wanted)
    if wanted.startswith("*."):
        return any(name.endswith(wanted[1:].rstrip(".")) for name in end.names)
    return end.namespace == wanted or wanted.rstrip(".") in end.names


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
