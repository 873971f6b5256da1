"""Validation of names, labels and addresses. Each function returns the value of a field or raises `FieldError`.

Source: apimachinery's `util/validation` (IsDNS1123Subdomain, IsDNS1123Label, IsQualifiedName, IsValidLabelValue, IsValidPortName)
and the API server's validation of `IPBlock`.
"""

import re

from ipaddress import IPv4Network, IPv6Network

from netpolq.addresses import is_ipv4, parse_address
from netpolq.enums import Protocol
from netpolq.sources.decode.fields import Field, FieldError, Report, shown

NAME_LENGTH = 253
LABEL_LENGTH = 63
PORT_NAME_LENGTH = 15

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(\.{_DNS_LABEL.pattern})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)


def _is(pattern: re.Pattern[str], text: str, longest: int) -> bool:
    return len(text) <= longest and pattern.fullmatch(text) is not None


def object_name(field: Field) -> str:
    """`metadata.name` of a pod or a policy: a DNS subdomain."""
    text = field.text()
    if not _is(_DNS_SUBDOMAIN, text, NAME_LENGTH):
        raise field.error(f"must be a DNS subdomain of at most {NAME_LENGTH} characters, not {shown(text)}")
    return text


def namespace_name(field: Field) -> str:
    """The name of a namespace: a DNS label."""
    text = field.text()
    if not _is(_DNS_LABEL, text, LABEL_LENGTH):
        raise field.error(f"must be a DNS label of at most {LABEL_LENGTH} characters, not {shown(text)}")
    return text


def timestamp(field: Field) -> str:
    """A time as the API writes it, in UTC; empty if absent."""
    text = field.text()
    if text and not _is(_CREATED, text, NAME_LENGTH):
        raise field.error(f"must be a time such as 2006-01-02T15:04:05Z, not {shown(text)}")
    return text


def label_key(field: Field) -> str:
    """The key of a label: a name, perhaps behind a DNS prefix and a slash."""
    text = field.text()
    prefix, slash, name = text.rpartition("/")
    if (slash and not _is(_DNS_SUBDOMAIN, prefix, NAME_LENGTH)) or not _is(_QUALIFIED, name, LABEL_LENGTH):
        raise field.error(f"not a label key: {shown(text)}")
    return text


def label_value(field: Field) -> str:
    """The value of a label; may be empty. `null` is read as the empty string, as the API server does."""
    text = field.text()
    if text and not _is(_QUALIFIED, text, LABEL_LENGTH):
        raise field.error(f"not a label value: {shown(text)}")
    return text


def labels_where_valid(field: Field, report: Report) -> dict[str, str]:
    """The valid entries of a map of labels, `metadata.labels` or `matchLabels`; records an error for the others, or if it is no map."""
    found: dict[str, str] = {}
    try:
        entries = field.mapping()
    except FieldError as error:
        report(error)
        return found
    for key, value in entries.items():
        try:
            valid_key = label_key(Field(field.path, key))
        except FieldError as error:
            report(error)
            valid_key = None
        try:
            valid_value = label_value(Field(f"{field.path}[{shown(key)}]", value))
        except FieldError as error:
            report(error)
            continue
        if valid_key is not None:
            found[valid_key] = valid_value
    return found


def protocol(field: Field) -> Protocol:
    """A transport protocol; TCP if absent."""
    if field.absent:
        return Protocol.TCP
    text = field.text()
    if text not in Protocol.__members__:
        raise field.error(f"must be TCP, UDP or SCTP, not {shown(text)}")
    return Protocol[text]


def port_name(field: Field) -> str:
    """The name of a port. Source: RFC 6335 section 5.1, lower case only."""
    text = field.text()
    if not _is(_PORT_NAME, text, PORT_NAME_LENGTH) or text.replace("-", "").isdigit():
        raise field.error(
            f"must be a port name (1 to {PORT_NAME_LENGTH} of a-z, 0-9 and single inner dashes, with a letter), not {shown(text)}"
        )
    return text


def network(field: Field) -> IPv4Network | IPv6Network:
    """A CIDR. Host bits are cleared, as the API's consumers do.

    IPv4-mapped IPv6 (`::ffff:10.0.0.0/104`) is the IPv4 network that it maps (`10.0.0.0/8`): the way the API server's own parser
    understands it, and the only one in which it can match anything.
    """
    text = field.text()
    address, _, length = text.partition("/")
    try:
        key = parse_address(address)
    except ValueError:
        key = None
    bits = 128 if ":" in address else 32
    if key is None or not _PREFIX_LENGTH.fullmatch(length) or int(length) > bits:
        raise field.error(f"must be a CIDR such as 10.0.0.0/8 or 2001:db8::/64, not {shown(text)}")
    prefix_length = int(length)
    if is_ipv4(key) and bits == 128 and prefix_length >= 96:
        bits, prefix_length = 32, prefix_length - 96
    if bits == 32:
        return IPv4Network((key[12:], prefix_length), strict=False)
    return IPv6Network((key, prefix_length), strict=False)
