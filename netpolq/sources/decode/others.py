"""Readers of Services, EndpointSlices and workloads, which only commands use: an agent ignores these kinds.

An object with a field that cannot be read is refused as a whole. Unknown fields are ignored.
Source: `v1.Service`, `discovery.k8s.io/v1 EndpointSlice`, and the kinds of `apps/v1`, `batch/v1` and `v1` that have a pod template.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from netpolq.addresses import AddressKey, is_ipv4, parse_address
from netpolq.enums import Protocol
from netpolq.model import NamedPort, qualified_name
from netpolq.sources.decode.concerned_namespaces import DEFAULT_NAMESPACE
from netpolq.sources.decode.error import DecodeError
from netpolq.sources.decode.fields import Field, FieldError, shown
from netpolq.sources.decode.pod import pod as read_pod
from netpolq.sources.decode.problems import Problems
from netpolq.sources.decode.validation import labels_where_valid, namespace_name, object_name, port_name, protocol

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
"""The label of an EndpointSlice with the name of its Service. Source: well-known labels."""

WORKLOADS: Final[Mapping[str, str]] = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
    "ReplicationController": "v1",
}
"""The kinds with a pod template, and their API versions."""

OTHERS: Final[Mapping[str, str]] = {"Service": "v1", "EndpointSlice": "discovery.k8s.io/v1", **WORKLOADS}


class ServicePort(NamedTuple):
    """`ServicePort`. `target_port`: a number, or the name of a port of the pods. `node_port`: 0 without one."""

    name: str
    protocol: Protocol
    port: int
    target_port: int | str
    node_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service. `addresses`: cluster IPs, external IPs and those of load balancers; `is_headless`: it has no cluster IP. `families`:
    `spec.ipFamilies`, or those of the cluster IPs, as whether they are IPv4; empty if neither is set.

    `selector`: None where EndpointSlices are made by hand. `external_name`: of type ExternalName, else empty.
    """

    namespace: str
    name: str
    addresses: tuple[AddressKey, ...] = ()
    is_headless: bool = False
    families: frozenset[bool] = frozenset()
    selector: Mapping[str, str] | None = None
    ports: tuple[ServicePort, ...] = ()
    external_name: str = ""

    def __str__(self) -> str:
        return f"service {qualified_name(self.namespace, self.name)}"


class SlicePort(NamedTuple):
    """`EndpointPort`."""

    name: str
    protocol: Protocol
    port: int


class SliceEndpoint(NamedTuple):
    """`Endpoint`, with its first address; the others are the same endpoint."""

    address: AddressKey
    is_ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice:
    """A part of the endpoints of a Service."""

    namespace: str
    name: str
    service: str
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]

    def __str__(self) -> str:
        return f"endpointslice {qualified_name(self.namespace, self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """An object with a pod template. `labels`, `named_ports`, `host_network`: of the template. `is_owned`: a controller has made it."""

    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    named_ports: tuple[NamedPort, ...] = ()
    host_network: bool = False
    is_owned: bool = False

    def __str__(self) -> str:
        return f"{self.kind.lower()} {qualified_name(self.namespace, self.name)}"


Other = Service | EndpointSlice | Workload


def decode_others(body: object) -> Iterator[Other | DecodeError]:
    """Yield the objects of these kinds in a body: the object itself, or the items of a list of one kind."""
    if not isinstance(body, dict):
        return
    kind = body.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and kind.removesuffix("List") in OTHERS:
        of_items = {"kind": kind.removesuffix("List"), "apiVersion": body.get("apiVersion")}
        items = body.get("items")
        for item in items if isinstance(items, list) else ():
            yield from decode_others(of_items | item if isinstance(item, dict) else item)
        return
    if isinstance(kind, str) and kind in OTHERS and body.get("apiVersion") == OTHERS[kind]:
        try:
            yield decode_other(kind, body)
        except DecodeError as error:
            yield error


def decode_other(kind: str, body: object) -> Other:
    """Return an object of a kind of `OTHERS`. Raises `DecodeError` with all its errors."""
    field, problems = Field("", body), Problems()
    found: Other | None = None
    key = kind
    try:
        metadata = field.record().get("metadata").record()
        of_namespace = metadata.get("namespace")
        namespace = namespace_name(of_namespace) if of_namespace.value not in (None, "") else DEFAULT_NAMESPACE
        name = object_name(metadata.get("name"))
        key = f"{kind} {qualified_name(namespace, name)}"
        match kind:
            case "Service":
                found = _service(field, namespace, name, problems)
            case "EndpointSlice":
                found = _slice(field, namespace, name, problems)
            case _:
                found = _workload(field, kind, namespace, name, problems)
    except FieldError as error:
        problems.add(error)
    if found is None or problems.count:
        raise DecodeError(field, problems, key=key)
    return found


def _address(field: Field) -> AddressKey:
    text = field.text()
    try:
        return parse_address(text)
    except ValueError as error:
        raise field.error(f"must be an IP address, not {shown(text)}") from error


def _service(body: Field, namespace: str, name: str, problems: Problems) -> Service:
    spec = body.get("spec").record()
    cluster_ips = [
        each for each in (spec.get("clusterIP"), *spec.get("clusterIPs").elements(problems.add)) if each.value not in (None, "")
    ]
    balancers = body.get("status").record().get("loadBalancer").record().get("ingress").elements(problems.add)
    addresses = [
        *(each for each in cluster_ips if each.value != "None"),
        *spec.get("externalIPs").elements(problems.add),
        *(each for balancer in balancers if (each := balancer.get("ip")).value not in (None, "")),
    ]
    selector = spec.get("selector")
    return Service(
        namespace=namespace,
        name=name,
        addresses=tuple(dict.fromkeys(map(_address, addresses))),
        families=frozenset(_families(spec, problems))
        or frozenset(is_ipv4(_address(ip)) for ip in cluster_ips if ip.value != "None"),
        is_headless=any(each.value == "None" for each in cluster_ips),
        selector=labels_where_valid(selector, problems.add) if selector.value else None,
        ports=tuple(map(_service_port, spec.get("ports").elements(problems.add))),
        external_name=spec.get("externalName").text() if spec.get("type").value == "ExternalName" else "",
    )


def _families(spec: Field, problems: Problems) -> Iterator[bool]:
    for field in spec.get("ipFamilies").elements(problems.add):
        if field.text() not in {"IPv4", "IPv6"}:
            raise field.error(f"must be IPv4 or IPv6, not {shown(field.value)}")
        yield field.value == "IPv4"


def _service_port(field: Field) -> ServicePort:
    number = field.get("port").port_number()
    target, node_port = field.get("targetPort"), field.get("nodePort")
    return ServicePort(
        name=field.get("name").text(),
        protocol=protocol(field.get("protocol")),
        port=number,
        target_port=number if target.value in (None, "", 0) else _target(target),
        node_port=node_port.port_number() if node_port.value not in (None, 0) else 0,
    )


def _target(field: Field) -> int | str:
    return port_name(field) if isinstance(field.value, str) else field.port_number()


def _slice(body: Field, namespace: str, name: str, problems: Problems) -> EndpointSlice:
    labels = labels_where_valid(body.get("metadata").get("labels"), problems.add)
    is_of_addresses = body.get("addressType").text() in {"IPv4", "IPv6"}
    endpoints = []
    for endpoint in body.get("endpoints").elements(problems.add) if is_of_addresses else ():
        addresses = endpoint.get("addresses").elements(problems.add)
        ready = endpoint.get("conditions").record().get("ready")
        if addresses:
            endpoints.append(SliceEndpoint(_address(addresses[0]), True if ready.absent else ready.flag()))
    ports = [port for port in body.get("ports").elements(problems.add) if not port.get("port").absent]
    return EndpointSlice(
        namespace=namespace,
        name=name,
        service=labels.get(SERVICE_NAME_LABEL, ""),
        ports=tuple(map(_slice_port, ports)),
        endpoints=tuple(endpoints),
    )


def _slice_port(field: Field) -> SlicePort:
    return SlicePort(field.get("name").text(), protocol(field.get("protocol")), field.get("port").port_number())


def _workload(body: Field, kind: str, namespace: str, name: str, problems: Problems) -> Workload:
    spec = body.get("spec").record()
    if kind == "CronJob":
        spec = spec.get("jobTemplate").record().get("spec").record()
    template = spec.get("template").record()
    if template.absent:
        raise template.error("a pod template is required")
    read = read_pod(template, namespace, name, problems.add)
    owners = body.get("metadata").get("ownerReferences").elements(problems.add)
    return Workload(
        kind=kind,
        namespace=namespace,
        name=name,
        labels=read.labels,
        named_ports=read.named_ports,
        host_network=read.host_network,
        is_owned=any(owner.get("controller").value is True for owner in owners if isinstance(owner.value, dict)),
    )
