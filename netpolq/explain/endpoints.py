"""The two ends of a question: from what was written on the command line to addresses, and from addresses back to names."""

import re

from collections.abc import Mapping
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, is_ipv4, parse_address
from netpolq.errors import NetpolqError, SettingsError
from netpolq.explain.flow import protocol_name
from netpolq.model import Pod
from netpolq.store import Store


class PodName(NamedTuple):
    """A pod as written: ns/name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Endpoint(NamedTuple):
    """An address and who is behind it. `pod`: ns/name, or None; `nodes`: names of the nodes with this address, usually none."""

    address: AddressKey
    pod: str | None
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        if self.pod is not None:
            return f"{format_address(self.address)} (pod {self.pod})"
        return f"{format_address(self.address)} ({'node ' + ', '.join(self.nodes) if self.nodes else 'no pod'})"


_WITH_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<other>[^:\[\]]+))(?::(?P<port>[^:]+))?")


class Parsed(NamedTuple):
    """An end as written. `port`: the number or name behind it, or None."""

    end: AddressKey | PodName
    port: str | None


def parse_endpoint(flag: str, text: str) -> Parsed:
    """An IP address, one in brackets, or ns/pod; `:PORT` may follow, an IPv6 address before it needs brackets.

    Raises `SettingsError` naming the flag.
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
    """The first address of each end in a family that both have, the source's order first.

    Raises `NetpolqError` for a pod that is not there or has no address, or if the ends share no family.
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
        raise NetpolqError(f"{flag}: there is no pod {end} in the manifests")
    if pod.completed:
        raise NetpolqError(f"{flag}: pod {end} has completed and owns no address any more")
    addresses = _own_or_node_addresses(pod)
    if not addresses:
        raise NetpolqError(f"{flag}: pod {end} has no address")
    return addresses


def _own_or_node_addresses(pod: Pod) -> tuple[AddressKey, ...]:
    return pod.host_ips or pod.ips if pod.host_network else pod.ips


def describe(store: Store, address: AddressKey) -> Endpoint:
    """Who is behind an address."""
    pod = store.address_owners().get(address)
    nodes = sorted(name for name, addresses in store.addresses_of_nodes().items() if address in addresses)
    return Endpoint(address, None if pod is None else f"{pod.namespace}/{pod.name}", tuple(nodes))


def resolve_port(owners: Mapping[bytes, Pod], destination: AddressKey, protocol: int, name: str) -> int:
    """The number of a named port of the pod that owns an address, as a policy would look it up. `owners`: see `Store.address_owners`.

    Raises `NetpolqError`, which says which named ports there are.
    """
    pod = owners.get(destination)
    if pod is None:
        raise NetpolqError(f"{name!r} is a name, and no pod owns {format_address(destination)}; give a number")
    numbers = sorted({port.port for port in pod.named_ports if port.name == name and port.protocol == protocol})
    if len(numbers) == 1:
        return numbers[0]
    if numbers:
        raise NetpolqError(f"{name!r} stands for {', '.join(map(str, numbers))} at pod {pod.namespace}/{pod.name}; give a number")
    known = ", ".join(f"{port.name} ({port.protocol.name} {port.port})" for port in pod.named_ports) or "none"
    raise NetpolqError(
        f"pod {pod.namespace}/{pod.name} has no {protocol_name(protocol)} port named {name!r}; its named ports: {known}"
    )
