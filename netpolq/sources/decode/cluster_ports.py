"""Readers of the ports of a rule of a cluster-wide policy, in both forms: `protocols`, and `ports` of v1alpha1.

Source: `policy.networking.k8s.io` ClusterNetworkPolicyProtocol and AdminNetworkPolicyPort, with the limits of their CRDs.
"""

from netpolq.enums import Protocol
from netpolq.model import PolicyPort
from netpolq.sources.decode.fields import Field, FieldError, Report, read_or
from netpolq.sources.decode.validation import port_name, protocol

_TRANSPORTS = {transport.name.lower(): transport for transport in Protocol}
_NAMED_PORT = "destinationNamedPort"


def only_field(field: Field, *names: str) -> tuple[str, Field]:
    """The name and value of the one field of an object that must have exactly one of these."""
    present = {name: inner for name in names if not (inner := field.get(name)).absent}
    if len(present) != 1:
        message = f"must have exactly one of {', '.join(names)}, not {' and '.join(present) or 'none of them'}"
        raise FieldError(field.path, message, is_missing=not present)
    return present.popitem()


def protocols_element(field: Field, *, report: Report) -> tuple[PolicyPort, ...]:
    """One element of `protocols`, of v1beta1: a protocol without a port is every port of it."""
    name, inner = only_field(field, *_TRANSPORTS, _NAMED_PORT)
    if name == _NAMED_PORT:
        return _named_port(inner)
    port = inner.get("destinationPort")
    return (PolicyPort(_TRANSPORTS[name]) if port.absent else _destination_port(port, _TRANSPORTS[name], report),)


def protocols_element_with_port(field: Field, *, report: Report) -> tuple[PolicyPort, ...]:
    """One element of `protocols`, of v1alpha2: a protocol must have a port."""
    for name in _TRANSPORTS:
        inner = field.get(name)
        if not inner.absent and inner.get("destinationPort").absent:
            raise FieldError(inner.path, "must have a destinationPort", is_missing=True)
    return protocols_element(field, report=report)


def ports_element(field: Field, *, report: Report) -> tuple[PolicyPort, ...]:
    """One element of `ports`, of v1alpha1."""
    name, inner = only_field(field, "portNumber", "portRange", "namedPort")
    if name == "namedPort":
        return _named_port(inner)
    transport = read_or(protocol, inner.get("protocol"), report, Protocol.TCP)
    if name == "portNumber":
        return (PolicyPort(transport, inner.get("port").port_number()),)
    return (_range(inner, transport, report),)


def _named_port(field: Field) -> tuple[PolicyPort, ...]:
    """A named port of any protocol."""
    name = port_name(field)
    return tuple(PolicyPort(transport, name) for transport in Protocol)


def _destination_port(field: Field, transport: Protocol, report: Report) -> PolicyPort:
    name, inner = only_field(field, "number", "range")
    return PolicyPort(transport, inner.port_number()) if name == "number" else _range(inner, transport, report)


def _range(field: Field, transport: Protocol, report: Report) -> PolicyPort:
    start = read_or(Field.port_number, field.get("start"), report, 0)
    end = field.get("end").port_number()
    if start and end <= start:
        raise field.get("end").error(f"must be above start, and {end} is not above {start}")
    return PolicyPort(transport, start, end)
