"""Services as destinations: the port that is asked for, and the endpoints behind it.

The endpoints are those of EndpointSlices, or, where a Service has none, the pods that its selector selects. A Service without a cluster
IP (headless) only gives names to its pods, so its clients use the ports of the pods. Source: `v1.ServiceSpec`.
"""

import re

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netpolq.addresses import AddressKey, format_address, is_ipv4
from netpolq.errors import NetpolqError
from netpolq.explain.flow import protocol_name
from netpolq.explain.known import Known, Others
from netpolq.model import Pod
from netpolq.sources.decode.others import Service, ServicePort
from netpolq.store import Store, reported_addresses

_CLUSTER_NAME = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.[a-z0-9.-]+)?")
"""The name of a Service in the cluster's DNS. Source: the specification of DNS-based service discovery of Kubernetes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A Service, resolved. `endpoints`: address and port of each that is ready. `port`: None where clients use the ports of the pods."""

    service: Service
    port: ServicePort | None
    endpoints: tuple[tuple[AddressKey, int], ...]
    unready: int
    is_from_slices: bool

    @property
    def text(self) -> str:
        """The line of a text answer."""
        count = len(self.endpoints)
        found = f"{count} endpoint{'s' if count > 1 else ''} of {'EndpointSlices' if self.is_from_slices else 'its selector'}"
        unready = f", {self.unready} not ready" if self.unready else ""
        if self.port is None:
            return f"{self.service} (headless): {found}{unready}"
        name = f" ({self.port.name})" if self.port.name else ""
        return f"{self.service}, {self.port.protocol.name} port {self.port.port}{name}: {found}{unready}"

    @property
    def fields(self) -> Mapping[str, object]:
        """The fields of a JSON answer."""
        port = self.port
        service = {
            "namespace": self.service.namespace,
            "name": self.service.name,
            "addresses": list(map(format_address, self.service.addresses)),
            "port": None if port is None else {"name": port.name or None, "protocol": port.protocol.name, "port": port.port},
            "endpoints_of": "EndpointSlice" if self.is_from_slices else "selector",
            "not_ready": self.unready,
        }
        return {"service": service}


def service_of_name(others: Others, name: str) -> Service | None:
    """Return the Service that a name in the cluster's DNS stands for; None for any other name."""
    match = _CLUSTER_NAME.fullmatch(name)
    return others.services.get((match[2], match[1])) if match else None


def service_of_address(others: Others, address: AddressKey) -> Service | None:
    """Return the Service that has an address."""
    return next((service for service in others.services.values() if address in service.addresses), None)


def service_of_node_port(others: Others, protocol: int, port: int | str | None) -> tuple[Service, ServicePort] | None:
    """Return the Service and its port with a node port."""
    pairs = ((service, each) for service in others.services.values() for each in service.ports)
    return next(
        ((service, each) for service, each in pairs if port and (each.node_port, each.protocol) == (port, protocol)), None
    )


def in_family_of(resolved: Resolved, address: AddressKey) -> Resolved:
    """Return the Service with the endpoints behind one of its addresses, which are of the same family."""
    endpoints = tuple(each for each in resolved.endpoints if is_ipv4(each[0]) == is_ipv4(address))
    if not endpoints:
        raise NetpolqError(f"--dst: {resolved.service} has no endpoint of the family of {format_address(address)}")
    return replace(resolved, endpoints=endpoints)


def resolve(known: Known, others: Others, service: Service, protocol: int, port: int | str | None) -> Resolved:
    """Resolve a Service. `port`: number or name of one of its ports; None: its only one of the protocol.

    Raises `NetpolqError` for one without such a port or without endpoints that are ready.
    """
    if service.external_name:
        raise NetpolqError(f"--dst: {service} is of type ExternalName; ask about --dst {service.external_name}")
    if service.is_headless and isinstance(port, int):
        return _with_endpoints(known, others, service, None, protocol, port)
    return with_port(known, others, service, _port(service, protocol, port))


def with_port(known: Known, others: Others, service: Service, port: ServicePort) -> Resolved:
    """Resolve a Service at one of its ports. Raises `NetpolqError` without endpoints that are ready."""
    return _with_endpoints(known, others, service, port, port.protocol, port.target_port)


def _port(service: Service, protocol: int, port: int | str | None) -> ServicePort:
    found = [each for each in service.ports if each.protocol == protocol and port in (None, each.port, each.name)]
    if len(found) == 1:
        return found[0]
    names = (
        ", ".join(f"{each.protocol.name} {each.port}{f' ({each.name})' if each.name else ''}" for each in service.ports) or "none"
    )
    if port is None:
        raise NetpolqError(
            f"--port: required, for {service} has {len(found)} {protocol_name(protocol)} ports; its ports: {names}"
        )
    raise NetpolqError(f"--port: {service} has no {protocol_name(protocol)} port {port}; its ports: {names}")


def _with_endpoints(
    known: Known, others: Others, service: Service, port: ServicePort | None, protocol: int, target: int | str
) -> Resolved:
    slices = others.slices.get((service.namespace, service.name), [])
    unready = 0
    endpoints: dict[tuple[AddressKey, int], None] = {}
    if slices:
        for piece in slices:
            numbers = [
                each.port for each in piece.ports if each.protocol == protocol and port is not None and each.name == port.name
            ]
            for number in numbers if port is not None else [int(target)]:
                for endpoint in piece.endpoints:
                    if endpoint.is_ready:
                        endpoints[endpoint.address, number] = None
                    else:
                        unready += 1
    else:
        endpoints.update(dict.fromkeys(_selected(known.store, service, protocol, target)))
        unready = sum(not pod.running for pod in _pods(known.store, service))
    if not endpoints:
        of = "of its EndpointSlices" if slices else "that its selector selects" if service.selector else "and no selector"
        raise NetpolqError(
            f"--dst: {service} has no ready endpoint {of}, so no connection to it can succeed; policies do not decide about it"
        )
    return Resolved(service=service, port=port, endpoints=tuple(endpoints), unready=unready, is_from_slices=bool(slices))


def _pods(store: Store, service: Service) -> Iterator[Pod]:
    if not service.selector:
        return
    for _key, pod in sorted(store.pods.items()):
        if pod.namespace == service.namespace and not pod.completed and service.selector.items() <= pod.labels.items():
            yield pod


def _selected(store: Store, service: Service, protocol: int, target: int | str) -> Iterator[tuple[AddressKey, int]]:
    for pod in _pods(store, service):
        addresses = pod.host_ips if pod.host_network else reported_addresses(pod)
        named = [each.port for each in pod.named_ports if each.name == target and each.protocol == protocol]
        for number in [target] if isinstance(target, int) else named[:1]:
            if pod.running and not pod.terminating:
                yield from ((address, number) for address in _of_families(addresses, service.families))


def _of_families(addresses: Sequence[AddressKey], families: frozenset[bool]) -> Sequence[AddressKey]:
    """Return the addresses that a Service uses. Without a choice it has the first family of the cluster, as pods have."""
    return [address for address in addresses if is_ipv4(address) in families] if families else addresses[:1]
