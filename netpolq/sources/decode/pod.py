"""Reader of the Pod fields that the agent uses, typed and checked. It records an error for an unreadable field and keeps the others.

Source: `v1.Pod` (PodSpec, PodStatus, ContainerPort).
"""

from collections.abc import Iterator

from netpolq.addresses import AddressKey, is_of_one_host, parse_address
from netpolq.model import Labels, NamedPort, Pod
from netpolq.sources.decode.fields import Field, Report, read_or, shown
from netpolq.sources.decode.interning import SHARED
from netpolq.sources.decode.validation import labels_where_valid, object_name, port_name, protocol, timestamp

_PHASES = frozenset({"Pending", "Running", "Succeeded", "Failed", "Unknown"})


def pod(body: Field, namespace: str, name: str, report: Report) -> Pod:
    """The readable part of the pod; never raises."""
    metadata = read_or(Field.record, body.get("metadata"), report, Field("metadata", None))
    spec = read_or(Field.record, body.get("spec"), report, Field("spec", None))
    status = read_or(Field.record, body.get("status"), report, Field("status", None))
    label_map = read_or(Field.record, metadata.get("labels"), report, Field("metadata.labels", None))
    phase = read_or(_phase, status.get("phase"), report, "")
    ips = tuple(_addresses(status, "podIP", report))
    return Pod(
        namespace=SHARED.intern(namespace),
        name=name,
        labels=SHARED.intern(Labels(labels_where_valid(label_map, report))),
        ips=ips,
        host_ips=SHARED.intern(tuple(_addresses(status, "hostIP", report))),
        node_name=SHARED.intern(read_or(_node_name, spec.get("nodeName"), report, "")),
        host_network=read_or(Field.flag, spec.get("hostNetwork"), report, False),
        completed=phase in {"Succeeded", "Failed"},
        # The API server always sets a phase; a manifest that lists addresses and leaves it out means a pod that runs.
        running=phase in {"Running", ""},
        terminating=bool(read_or(timestamp, metadata.get("deletionTimestamp"), report, "")),
        created=read_or(timestamp, metadata.get("creationTimestamp"), report, ""),
        named_ports=SHARED.intern(tuple(_named_ports(spec, report))),
        uid="" if ips else read_or(Field.text, metadata.get("uid"), report, ""),
    )


def _records(holder: Field, name: str, report: Report) -> Iterator[Field]:
    """The elements of a list that are objects."""
    for element in holder.get(name).elements(report):
        yield read_or(Field.record, element, report, Field(element.path, None))


def _phase(field: Field) -> str:
    text = field.text()
    if text and text not in _PHASES:
        raise field.error(f"must be one of {', '.join(sorted(_PHASES))}, not {shown(text)}")
    return text


def _node_name(field: Field) -> str:
    return "" if field.absent or field.value == "" else object_name(field)


def _address(field: Field) -> AddressKey | None:
    text = field.text()
    if not text:
        return None
    try:
        address = parse_address(text)
    except ValueError as error:
        raise field.error(f"must be an IP address, not {shown(text)}") from error
    if not is_of_one_host(address):
        # As the address of an isolated pod it would subject the node's own traffic to policy.
        raise field.error(f"must be the address of one host, and {shown(text)} is not")
    return address


def _addresses(status: Field, name: str, report: Report) -> Iterator[AddressKey]:
    """The addresses of `podIP` and `podIPs`, or `hostIP` and `hostIPs`: in order, each once."""
    fields = [status.get(name), *(element.get("ip") for element in _records(status, f"{name}s", report))]
    yield from dict.fromkeys(address for field in fields if (address := read_or(_address, field, report, None)) is not None)


def _named_ports(spec: Field, report: Report) -> Iterator[NamedPort]:
    """Of containers, and of init containers that keep running beside them (restartPolicy Always: sidecars)."""
    sidecars = [
        container for container in _records(spec, "initContainers", report) if container.get("restartPolicy").value == "Always"
    ]
    for container in [*_records(spec, "containers", report), *sidecars]:
        for port in _records(container, "ports", report):
            if port.get("name").value not in (None, ""):
                yield from _named_port(port, report)


def _named_port(field: Field, report: Report) -> Iterator[NamedPort]:
    """The port, if all three fields of it can be read."""
    name = read_or(port_name, field.get("name"), report, None)
    of_protocol = read_or(protocol, field.get("protocol"), report, None)
    number = read_or(Field.port_number, field.get("containerPort"), report, None)
    if name is not None and of_protocol is not None and number is not None:
        yield NamedPort(name, of_protocol, number)
