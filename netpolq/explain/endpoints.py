"""The endpoints of a flow: conversion from command-line arguments to addresses, and from addresses to names."""

import re

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, is_ipv4, parse_address
from netpolq.errors import NetpolqError, SettingsError
from netpolq.explain.flow import protocol_name
from netpolq.explain.known import Known
from netpolq.model import Pod, domain_name, qualified_name
from netpolq.sources.decode.others import Workload


class PodName(NamedTuple):
    """The name of a pod, written as namespace/name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return qualified_name(self.namespace, self.name)


class HostName(NamedTuple):
    """A domain name, in the form of `netpolq.model.domain_name`. It stands for the addresses learned for it."""

    name: str

    def __str__(self) -> str:
        return self.name


class ObjectName(NamedTuple):
    """A Service or a workload. `kind`: as in the API. `namespace`: empty if the text has none; it may then be a pod of that name in a
    namespace with the name of a kind (`word`).
    """

    kind: str
    namespace: str
    name: str
    word: str

    def __str__(self) -> str:
        return f"{self.kind.lower()} {qualified_name(self.namespace, self.name)}"


End = AddressKey | PodName | HostName | ObjectName
"""An end of a question, as given."""


class Endpoint(NamedTuple):
    """An address and its owners. `pod`: namespace/name, or None. `nodes`: names of the nodes with this address, usually none.
    `workload`: the one whose pod template the address stands for; the address is then not real and never shown.
    """

    address: AddressKey
    pod: str | None
    nodes: tuple[str, ...]
    workload: Workload | None = None

    def __str__(self) -> str:
        if self.workload is not None:
            return f"{self.workload} (its pod template, without an address)"
        if self.pod is not None:
            return f"{format_address(self.address)} (pod {self.pod})"
        return f"{format_address(self.address)} ({'node ' + ', '.join(self.nodes) if self.nodes else 'no pod'})"

    @property
    def shown_address(self) -> str:
        """The address for messages."""
        return f"an address of {self.workload}" if self.workload is not None else format_address(self.address)


_KINDS = {
    **dict.fromkeys(("pod", "pods", "po"), "Pod"),
    **dict.fromkeys(("service", "services", "svc"), "Service"),
    **dict.fromkeys(("deployment", "deployments", "deploy"), "Deployment"),
    **dict.fromkeys(("statefulset", "statefulsets", "sts"), "StatefulSet"),
    **dict.fromkeys(("daemonset", "daemonsets", "ds"), "DaemonSet"),
    **dict.fromkeys(("replicaset", "replicasets", "rs"), "ReplicaSet"),
    **dict.fromkeys(("job", "jobs"), "Job"),
    **dict.fromkeys(("cronjob", "cronjobs", "cj"), "CronJob"),
    **dict.fromkeys(("replicationcontroller", "replicationcontrollers", "rc"), "ReplicationController"),
}
"""The names of kinds as kubectl has them."""

_WITH_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<other>[^:\[\]]+))(?::(?P<port>[^:]+))?")


_HOST_NAME = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?)+\.?")
"""Two labels or more. The last one is not a number, or else a mistyped address would be a name. Source: the URL standard, host parsing."""


class Parsed(NamedTuple):
    """A parsed endpoint argument. `port`: the number or name after the colon, or None."""

    end: End
    port: str | None

    @property
    def wanted(self) -> str:
        """The end as a `Read` asks for it."""
        match self.end:
            case bytes():
                return format_address(self.end)
            case ObjectName(kind, namespace, name, word):
                return f"{kind.lower()}/{namespace}/{name}" if namespace else f"{word}/{name}"
            case _:
                return str(self.end)


def parse_endpoint(flag: str, text: str) -> Parsed:
    """Parse an IP address, namespace/pod, kind/namespace/name, kind/name or a domain name. `:PORT` may follow; an IPv6 address then needs
    brackets.

    Raises `SettingsError`, which names the flag.
    """
    match = _WITH_PORT.fullmatch(text)
    port = match["port"] if match else None
    host = text if match is None else match["other"] if match["ipv6"] is None else match["ipv6"]
    namespace, slash, name = host.partition("/")
    has_brackets = match is not None and match["ipv6"] is not None
    if slash and namespace and name and not has_brackets and (named := _named(namespace, name)) is not None:
        return Parsed(named, port)
    if _HOST_NAME.fullmatch(host) and not has_brackets and not host.removesuffix(".").rpartition(".")[2].isdigit():
        return Parsed(HostName(domain_name(host)), port)
    try:
        if has_brackets and ":" not in host:
            raise ValueError("no IPv6 address in the brackets")
        return Parsed(parse_address(host), port)
    except ValueError as error:
        raise SettingsError(
            f"{flag}: {text!r} must be an IP address, namespace/pod, kind/namespace/name (as in service/shop/db, deployment/shop/web) or a "
            "domain name; :PORT may follow, as in 10.0.0.1:80 and [fd00::1]:80"
        ) from error


def kind_of(wanted: str) -> str:
    """Return the kind of what a `Read` is asked for: Pod, a kind of `netpolq.sources.decode.others`, or nothing for an address or name."""
    first, slash, _rest = wanted.partition("/")
    return _KINDS.get(first.lower(), "Pod") if slash else ""


def _named(first: str, rest: str) -> PodName | ObjectName | None:
    """Return the object of FIRST/REST; None if there can be none."""
    kind = _KINDS.get(first.lower())
    namespace, slash, name = rest.partition("/")
    if not slash:
        return PodName(first, rest) if kind is None or kind == "Pod" else ObjectName(kind, "", rest, first)
    if kind is None or not namespace or not name or "/" in name:
        return None
    return PodName(namespace, name) if kind == "Pod" else ObjectName(kind, namespace, name, first)


def addresses_of_pod(known: Known, flag: str, end: PodName) -> tuple[AddressKey, ...]:
    """Return the addresses of a pod, of its node for one with hostNetwork. Raises `NetpolqError` if there is no such pod or none."""
    pod = known.store.pods.get((end.namespace, end.name))
    if pod is None:
        raise NetpolqError(f"{flag}: pod {end} does not exist in {known.origin.where}{_hint(known, end)}")
    if pod.completed:
        raise NetpolqError(f"{flag}: pod {end} has completed and no longer owns an address")
    addresses = pod.host_ips or pod.ips if pod.host_network else pod.ips
    if not addresses:
        raise NetpolqError(f"{flag}: pod {end} has no address")
    return addresses


def _hint(known: Known, end: PodName) -> str:
    """Return what else has the name."""
    others = known.others
    if others is None:
        return ""
    found = ["service"] if end in others.services else []
    found += [kind.lower() for kind, *name in others.workloads if tuple(name) == end]
    return f"; did you mean {' or '.join(f'{kind}/{end}' for kind in found)}?" if found else ""


def addresses_of_name(known: Known, flag: str, name: str) -> tuple[AddressKey, ...]:
    """Return the addresses learned for a domain name. Raises `NetpolqError` if there are none."""
    found = tuple(sorted(address for address, names in known.store.names.items() if name in names))
    if not found:
        raise NetpolqError(
            f"{flag}: no address of {name} is known to {known.origin.where}, and no DNS server is asked; give --name {name}=ADDRESS"
        )
    return found


def in_one_family(sources: Iterable[AddressKey], destinations: Iterable[AddressKey]) -> tuple[AddressKey, AddressKey] | None:
    """Return the first address of each end in a common family, in the order of the source's addresses; None without one."""
    destinations = tuple(destinations)
    pairs = ((first, second) for first in sources for second in destinations if is_ipv4(first) == is_ipv4(second))
    return next(pairs, None)


class Owners:
    """Who has which address. Computed once, because the time grows with the number of pods."""

    def __init__(self, known: Known) -> None:
        self.pods: Mapping[bytes, Pod] = known.store.address_owners()
        self._nodes = known.store.addresses_of_nodes()
        self._synthetic = known.others.synthetic if known.others is not None else {}

    def describe(self, address: AddressKey) -> Endpoint:
        """Return the owners of an address."""
        if (workload := self._synthetic.get(address)) is not None:
            return Endpoint(address, None, (), workload)
        pod = self.pods.get(address)
        return Endpoint(address, None if pod is None else qualified_name(pod.namespace, pod.name), self.nodes(address))

    def nodes(self, address: AddressKey) -> tuple[str, ...]:
        """Return the names of the nodes that have an address."""
        return tuple(sorted(name for name, addresses in self._nodes.items() if address in addresses))


def resolve_port(owners: Mapping[bytes, Pod], destination: AddressKey, protocol: int, name: str) -> int:
    """Return the number of a named port of the pod that owns an address, resolved as in a policy. `owners`: see `Store.address_owners`.

    Raises `NetpolqError`, which lists the named ports of the pod.
    """
    pod = owners.get(destination)
    if pod is None:
        raise NetpolqError(f"port name {name!r} cannot be resolved: no pod owns {format_address(destination)}; give a number")
    numbers = sorted({port.port for port in pod.named_ports if port.name == name and port.protocol == protocol})
    if len(numbers) == 1:
        return numbers[0]
    if numbers:
        raise NetpolqError(
            f"port name {name!r} is ambiguous: {', '.join(map(str, numbers))} at pod {pod.namespace}/{pod.name}; give a number"
        )
    known = ", ".join(f"{port.name} ({port.protocol.name} {port.port})" for port in pod.named_ports) or "none"
    raise NetpolqError(
        f"pod {pod.namespace}/{pod.name} has no {protocol_name(protocol)} port named {name!r}; its named ports: {known}"
    )
