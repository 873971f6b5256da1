"""Parsers of protocols and ports, for the command line and for batches."""

from netpolq.enums import PROTOCOL_NAMES, Protocol

_NUMBERS = {name.upper(): number for number, name in PROTOCOL_NAMES.items()}


def parse_protocol(value: object) -> int:
    """Return the IANA number of a protocol, given by name (in any case) or by number. Raises `ValueError` for anything else.

    Source: IANA Assigned Internet Protocol Numbers, 0 to 255.
    """
    number: object = value
    if isinstance(value, str):
        number = int(value) if value.isascii() and value.isdigit() and len(value) <= 3 else _NUMBERS.get(value.upper())
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 255:
        raise ValueError(f"must be {', '.join(PROTOCOL_NAMES.values())} or a number from 0 to 255")
    return number


def protocol_name(number: int) -> str:
    """Return the name of a protocol, or its number if it has no name here."""
    return PROTOCOL_NAMES.get(number, str(number))


def has_ports(protocol: int) -> bool:
    """Whether policies can match ports of a protocol."""
    return protocol in Protocol.__members__.values()


def parse_port(protocol: int, value: object) -> int:
    """Return the destination port of a flow; always 0 if the protocol has none. Raises `ValueError` for an invalid or missing port."""
    if not has_ports(protocol):
        return 0
    if value is None:
        raise ValueError(f"required with {protocol_name(protocol)}")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise ValueError("must be a number from 0 to 65535")
    return value
