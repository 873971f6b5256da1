"""Reader of the Node fields that the agent uses, typed and checked. It records an error for an unreadable field and keeps the others.

Source: `v1.Node` (NodeStatus, NodeAddress).
"""

from collections.abc import Iterator

from netpolq.addresses import AddressKey, parse_address
from netpolq.model import Labels, Node
from netpolq.sources.decode.fields import Field, FieldError, Report, read_or, shown
from netpolq.sources.decode.validation import labels_where_valid

MAX_ADDRESSES = 100
"""Maximum number of addresses that are used of one node. A node has a few; a load balancer on it adds some more."""

_IP_TYPES = ("InternalIP", "ExternalIP")
"""Types whose addresses must be IP addresses; those of other types may be host names."""


def node(body: Field, name: str, report: Report) -> Node:
    """The readable part of the node; never raises."""
    metadata = read_or(Field.record, body.get("metadata"), report, Field("metadata", None))
    status = read_or(Field.record, body.get("status"), report, Field("status", None))
    label_map = read_or(Field.record, metadata.get("labels"), report, Field("metadata.labels", None))
    addresses = tuple(dict.fromkeys(_addresses(status.get("addresses"), report)))
    return Node(name=name, labels=Labels(labels_where_valid(label_map, report)), addresses=addresses)


def _addresses(field: Field, report: Report) -> Iterator[AddressKey]:
    elements = field.elements(report)
    if len(elements) > MAX_ADDRESSES:
        report(field.error(f"must not have more than {MAX_ADDRESSES} entries; those after them are not used"))
    for element in elements[:MAX_ADDRESSES]:
        address = read_or(_address, element, report, None)
        if address is not None:
            yield address


def _address(field: Field) -> AddressKey | None:
    """The address of an entry, or None for a host name."""
    text = field.get("address").text()
    try:
        return parse_address(text)
    except ValueError:
        if field.get("type").value in _IP_TYPES:
            raise FieldError(f"{field.path}.address", f"must be an IP address, not {shown(text)}") from None
        return None
