"""The flows that a question is about: usually one; several where its destination stands for several addresses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, is_ipv4
from netpolq.errors import NetpolqError, SettingsError
from netpolq.explain.endpoints import (
    End,
    HostName,
    ObjectName,
    Owners,
    PodName,
    addresses_of_name,
    addresses_of_pod,
    in_one_family,
    resolve_port,
)
from netpolq.explain.flow import has_ports, protocol_name
from netpolq.explain.known import Known, Others
from netpolq.explain.services import (
    Resolved,
    in_family_of,
    resolve,
    service_of_address,
    service_of_name,
    service_of_node_port,
    with_port,
)
from netpolq.explain.workloads import blocks_of, families_of, pod_of
from netpolq.sources.decode.others import Service, Workload

_PRIVATE = (b"\x0a", b"\xc0\xa8", *(bytes((0xAC, number)) for number in range(16, 32)))
"""Beginnings of private IPv4 addresses. Source: RFC 1918."""


class Flow(NamedTuple):
    """A flow to evaluate. `port`: 0 unless TCP, UDP or SCTP."""

    source: AddressKey
    destination: AddressKey
    protocol: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """The flows of a question, one or more. `via`: what stands for their destinations, as the line of a text and as JSON fields; empty
    for a destination that is an address, a pod or a workload. `via_service`: the client uses the address of a Service. `notes`: what an
    answer must tell beside the verdict.
    """

    flows: tuple[Flow, ...]
    via: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
    via_service: bool = False
    notes: tuple[str, ...] = ()


def flows_of(known: Known, source: End, destination: End, protocol: int, port: int | str | None) -> Flows:
    """Return the flows from one end to another. `port`: a number, or the name of a port of the destination; None: none is given.

    Raises `NetpolqError` for an end that does not exist or has no address, or if the ends have no common family.
    """
    return _flows(known, _looked_up(known, "--src", source), _looked_up(known, "--dst", destination), protocol, port)


def _flows(known: Known, source: "_Found", destination: "_Found", protocol: int, port: int | str | None) -> Flows:
    families = families_of(known.store) | {is_ipv4(end) for end in (source, destination) if isinstance(end, bytes)}
    sources = _sources(known, source, families)
    resolved = _service(known, destination, protocol, port)
    if resolved is not None:
        pairs = [(pair, number) for address, number in resolved.endpoints if (pair := in_one_family(sources, (address,)))]
        if not pairs:
            raise NetpolqError(f"--dst: {resolved.service} has no endpoint of the same family as --src")
        flows = tuple(Flow(*pair, protocol, number) for pair, number in pairs)
        notes = _notes(known, source, destination)
        has_address = resolved.port is not None
        return Flows(flows=flows, via=resolved.text, fields=resolved.fields, via_service=has_address, notes=notes)
    if port is None:
        raise SettingsError(f"--port: required with {protocol_name(protocol)}")
    destinations = _destinations(known, destination, families)
    pairs_of = [destinations] if not isinstance(destination, HostName) else [(address,) for address in destinations]
    found = [pair for each in pairs_of if (pair := in_one_family(sources, each)) is not None]
    if not found:
        given = isinstance(source, bytes) and isinstance(destination, bytes)
        raise (SettingsError if given else NetpolqError)("--dst: has no address of the same family as --src")
    owners = Owners(known)
    notes = _notes(known, source, destination)
    flows = tuple(Flow(*pair, protocol, _number_of(owners, pair[1], protocol, port)) for pair in found)
    if not isinstance(destination, HostName):
        return Flows(flows=flows, notes=notes)
    count = f"{len(destinations)} learned address{'es' if len(destinations) > 1 else ''}"
    return Flows(flows=flows, via=f"{destination}, {count}", fields={"name": destination.name}, notes=notes)


_Found = AddressKey | PodName | HostName | Service | Workload


def _looked_up(known: Known, flag: str, end: End) -> _Found:
    """Return the Service or workload that an end names; any other end as it is. Raises `NetpolqError`."""
    if not isinstance(end, ObjectName):
        return end
    if not end.namespace and (end.word, end.name) in known.store.pods:
        return PodName(end.word, end.name)
    others = _others(known, flag, end)
    if end.kind == "Service":
        services = {key: service for key, service in others.services.items() if _is_named(end, *key)}
        return _only(known, flag, end, list(services.values()))
    workloads = [workload for (kind, *key), workload in others.workloads.items() if kind == end.kind and _is_named(end, *key)]
    return _only(known, flag, end, workloads)


def _is_named(end: ObjectName, namespace: str, name: str) -> bool:
    return name == end.name and end.namespace in ("", namespace)


def _only(known: Known, flag: str, end: ObjectName, found: Sequence[Service | Workload]) -> Service | Workload:
    if len(found) == 1:
        return found[0]
    if found:
        namespaces = ", ".join(sorted(each.namespace for each in found))
        raise NetpolqError(f"{flag}: {end} exists in several namespaces ({namespaces}); give {end.word}/NAMESPACE/{end.name}")
    raise NetpolqError(f"{flag}: {end} does not exist in {known.origin.where}")


def _others(known: Known, flag: str, end: ObjectName) -> Others:
    if known.others is None:
        raise NetpolqError(
            f"{flag}: {end}: an agent knows no Services and workloads; give --kubeconfig FILE or --manifests PATH, or a pod or address"
        )
    if reason := known.others.missing.get(end.kind):
        raise NetpolqError(f"{flag}: {end}: {reason}")
    return known.others


def _sources(known: Known, source: _Found, families: frozenset[bool]) -> tuple[AddressKey, ...]:
    match source:
        case Service():
            raise NetpolqError(f"--src: {source} is no client; give one of its pods or its workload")
        case HostName(name):
            raise NetpolqError(f"--src: the domain name {name} is no client; give an address")
        case _:
            return _addresses(known, "--src", source, families)


def _destinations(known: Known, destination: _Found, families: frozenset[bool]) -> tuple[AddressKey, ...]:
    if isinstance(destination, Service):
        raise NetpolqError(f"--dst: {destination} cannot be resolved")
    if isinstance(destination, HostName):
        return addresses_of_name(known, "--dst", destination.name)
    return _addresses(known, "--dst", destination, families)


def _addresses(
    known: Known, flag: str, end: AddressKey | PodName | Workload, families: frozenset[bool]
) -> tuple[AddressKey, ...]:
    match end:
        case PodName():
            return addresses_of_pod(known, flag, end)
        case Workload():
            if known.others is None:
                raise NetpolqError(f"{flag}: {end}: an agent knows no workloads")
            try:
                return pod_of(known, known.others, end, families=families).ips
            except NetpolqError as error:
                raise NetpolqError(f"{flag}: {error}") from error
        case _:
            return (end,)


def _service(known: Known, destination: _Found, protocol: int, port: int | str | None) -> Resolved | None:
    """Return the Service that a destination stands for, resolved; None if it stands for none."""
    others = known.others
    if others is None or not has_ports(protocol):
        if isinstance(destination, Service):
            raise NetpolqError(f"--protocol: {destination} has ports of TCP, UDP and SCTP only")
        return None
    match destination:
        case Service():
            return resolve(known, others, destination, protocol, port)
        case HostName(name):
            service = service_of_name(others, name)
            return None if service is None else resolve(known, others, service, protocol, port)
        case bytes():
            if (service := service_of_address(others, destination)) is not None:
                return in_family_of(resolve(known, others, service, protocol, port), destination)
            of_node = service_of_node_port(others, protocol, port)
            if of_node is not None and Owners(known).nodes(destination):
                return in_family_of(with_port(known, others, *of_node), destination)
    return None


def _notes(known: Known, source: _Found, destination: _Found) -> tuple[str, ...]:
    synthetic = {} if known.others is None else known.others.synthetic
    notes = []
    if synthetic and any(True for _ in blocks_of(known.store)):
        names = ", ".join(sorted({str(workload) for workload in synthetic.values()}))
        notes.append(
            f"the addresses of {names} are not known: no address block of a policy but those of all addresses counts for them"
        )
    ends = [end for end in (source, destination) if isinstance(end, Workload) and end not in synthetic.values()]
    notes += [f"a pod with the labels of its template stands for {end}" for end in ends]
    if isinstance(destination, bytes) and known.store.owner(destination) is None:
        address = format_address(destination)
        if known.others is None and _is_private(destination):
            notes.append(f"if {address} is the address of a Service, give --kubeconfig FILE: an agent knows no Services")
        if known.others is not None and (reason := known.others.missing.get("Service")):
            notes.append(f"whether {address} is the address of a Service is not known: {reason}")
    return tuple(notes)


def _is_private(address: AddressKey) -> bool:
    return address[12:].startswith(_PRIVATE) if is_ipv4(address) else address[0] & 0xFE == 0xFC


def _number_of(owners: Owners, destination: AddressKey, protocol: int, port: int | str) -> int:
    if isinstance(port, int):
        return port
    try:
        return resolve_port(owners.pods, destination, protocol, port)
    except NetpolqError as error:
        raise NetpolqError(f"--port: {error}") from error
