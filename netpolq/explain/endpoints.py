"""The endpoints of a flow: conversion from command-line arguments to addresses, and from addresses to names."""

import re

from collections.abc import Mapping
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, is_ipv4, parse_address
from netpolq.errors import NetpolqError, SettingsError
from netpolq.explain.flow import protocol_name
from netpolq.model import Pod, qualified_name
from netpolq.store import Store


class PodName(NamedTuple):
    """The name of a pod, written as namespace/name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return qualified_name(self.namespace, self.name)


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


class Parsed(NamedTuple):
    """A parsed endpoint argument. `port`: the number or name after the colon, or None."""

    end: AddressKey | PodName
    port: str | None


def parse_endpoint(flag: str, text: str) -> Parsed:
    """Parse an IP address or namespace/pod. `:PORT` may follow; an IPv6 address then needs brackets.

    Raises `SettingsError`, which names the flag.
    """
    match = _WITH_PORT.fullmatch(text)
    port = match["port"] if match else None
    host = text if match is None else match["other"] if match["ipv6"] is None else match["ipv6"]
    namespace, slash, name = host.partition("/")
    if slash and namespace and name and "/" not in name and (match is None or match["ipv6"] is None):
        return Parsed(PodName(namespace, name), port)
    try:
        if match is not None and match["ipv6"] is not None and ":" not in host:
            raise ValueError("no IPv6 address in the brackets")
        return Parsed(parse_address(host), port)
    except ValueError as error:
        raise SettingsError(
            f"{flag}: {text!r} must be an IP address or namespace/pod; :PORT may follow, as in 10.0.0.1:80 and [fd00::1]:80"
        ) from error


def choose_addresses(
    store: Store, source: AddressKey | PodName, destination: AddressKey | PodName
) -> tuple[AddressKey, AddressKey]:
    """Return the first address of each endpoint in a common family, in the order of the source's addresses.

    Raises `NetpolqError` for a pod that does not exist or has no address, or if the endpoints have no common family.
    """
    sources, destinations = _addresses(store, "--src", source), _addresses(store, "--dst", destination)
    for first in sources:
        for second in destinations:
            if is_ipv4(first) == is_ipv4(second):
                return first, second
    given = not isinstance(source, PodName) and not isinstance(destination, PodName)
    raise (SettingsError if given else NetpolqError)("--dst: has no address of the same family as --src")


def _addresses(store: Store, flag: str, end: AddressKey | PodName) -> tuple[AddressKey, ...]:
    if not isinstance(end, PodName):
        return (end,)
    pod = store.pods.get((end.namespace, end.name))
    if pod is None:
        raise NetpolqError(f"{flag}: pod {end} does not exist in the manifests")
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
