"""Learned names given on the command line: `NAME=ADDRESS`, separated by commas. An agent learns them from DNS answers."""

import re

from collections.abc import Mapping

from netpolq.addresses import AddressKey, parse_address
from netpolq.errors import SettingsError
from netpolq.model import domain_name

_NAME = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?)*\.?")


def parse_names(text: str) -> Mapping[AddressKey, frozenset[str]]:
    """Return the names of each address. Raises `SettingsError`, which names the part that cannot be read."""
    names: dict[AddressKey, frozenset[str]] = {}
    for part in text.split(",") if text else ():
        name, _equals, address = part.partition("=")
        try:
            key = parse_address(address)
        except ValueError:
            key = None
        if key is None or not _NAME.fullmatch(name):
            allowed = "NAME=ADDRESS, a domain name in ASCII and an IP address, as in example.com=192.0.2.1"
            raise SettingsError(f"--name: {part!r} must be {allowed}")
        names[key] = names.get(key, frozenset()) | {domain_name(name)}
    return names
