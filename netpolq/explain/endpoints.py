"""The endpoints of a flow: conversion from command-line arguments to addresses, and from addresses to names."""

import re

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, is_ipv4, parse_address
from netpolq.errors import NetpolqError, SettingsError
from netpolq.explain.flow import protocol_name
from netpolq.explain.known import Known
from netpolq.model import Pod, domain_name, qualified_name
from netpolq.store import Store


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


End = AddressKey | PodName | HostName
"""An end of a question, as given."""


class Endpoint(NamedTuple):
    """An address and its owners. `pod`: namespace/name, or None. `nodes`: names of the nodes with this address, usually none."""

    address: AddressKey
    pod: str | None
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        if self.pod is not None:
            return f"{format_address(self.address)} (pod {self.pod})"
        return f"{format_address(self.address)} ({'node ' + ', '.join(self.nodes) if self.nodes else 'no pod'})"


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
        return format_address(self.end) if isinstance(self.end, bytes) else str(self.end)


def parse_endpoint(flag: str, text: str) -> Parsed:
    """Parse an IP address, namespace/pod or a domain name. `:PORT` may follow; an IPv6 address then needs brackets.

    Raises `SettingsError`, which names the flag.
    """
    match = _WITH_PORT.fullmatch(text)
    port = match["port"] if match else None
    host = text if match is None else match["other"] if match["ipv6"] is None else match["ipv6"]
    namespace, slash, name = host.partition("/")
    has_brackets = match is not None and match["ipv6"] is not None
    if slash and namespace and name and "/" not in name and not has_brackets:
        return Parsed(PodName(namespace, name), port)
    if _HOST_NAME.fullmatch(host) and not has_brackets and not host.removesuffix(".").rpartition(".")[2].isdigit():
        return Parsed(HostName(domain_name(host)), port)
    try:
        if has_brackets and ":" not in host:
            raise ValueError("no IPv6 address in the brackets")
        return Parsed(parse_address(host), port)
    except ValueError as error:
        raise SettingsError(
            f"{flag}: {text!r} must be an IP address, namespace/pod or a domain name; :PORT may follow, as in 10.0.0.1:80 and "
            "[fd00::1]:80"
        ) from error


def addresses_of(known: Known, flag: str, end: End) -> tuple[AddressKey, ...]:
    """Return the addresses of an end. Raises `NetpolqError` for a pod that does not exist or has no address, or an unknown name."""
    match end:
        case PodName():
            return _addresses_of_pod(known, flag, end)
        case HostName(name):
            found = tuple(sorted(address for address, names in known.store.names.items() if name in names))
            if not found:
                raise NetpolqError(
                    f"{flag}: no address of {name} is known to {known.origin.where}, and no DNS server is asked; "
                    f"give --name {name}=ADDRESS"
                )
            return found
        case _:
            return (end,)


def in_one_family(sources: Iterable[AddressKey], destinations: Iterable[AddressKey]) -> tuple[AddressKey, AddressKey] | None:
    """Return the first address of each end in a common family, in the order of the source's addresses; None without one."""
    destinations = tuple(destinations)
    pairs = ((first, second) for first in sources for second in destinations if is_ipv4(first) == is_ipv4(second))
    return next(pairs, None)


def _addresses_of_pod(known: Known, flag: str, end: PodName) -> tuple[AddressKey, ...]:
    pod = known.store.pods.get((end.namespace, end.name))
    if pod is None:
        raise NetpolqError(f"{flag}: pod {end} does not exist in {known.origin.where}")
    if pod.completed:
        raise NetpolqError(f"{flag}: pod {end} has completed and no longer owns an address")
    addresses = _own_or_node_addresses(pod)
    if not addresses:
        raise NetpolqError(f"{flag}: pod {end} has no address")
    return addresses


def _own_or_node_addresses(pod: Pod) -> tuple[AddressKey, ...]:
    return pod.host_ips or pod.ips if pod.host_network else pod.ips


def describe(store: Store, address: AddressKey) -> Endpoint:
    """Return the owners of an address."""
    pod = store.address_owners().get(address)
    nodes = sorted(name for name, addresses in store.addresses_of_nodes().items() if address in addresses)
    return Endpoint(address, None if pod is None else qualified_name(pod.namespace, pod.name), tuple(nodes))


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
