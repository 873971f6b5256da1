"""The flows that a question is about: usually one; several where its destination stands for several addresses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.errors import NetpolqError, SettingsError
from netpolq.explain.endpoints import End, HostName, addresses_of, in_one_family, resolve_port
from netpolq.explain.known import Known


class Flow(NamedTuple):
    """A flow to evaluate. `port`: 0 unless TCP, UDP or SCTP."""

    source: AddressKey
    destination: AddressKey
    protocol: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """The flows of a question, one or more. `via`: what stands for their destinations, as the line of a text and as JSON fields; empty
    for a destination that is an address or a pod.
    """

    flows: tuple[Flow, ...]
    via: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)


def flows_of(known: Known, source: End, destination: End, protocol: int, port: int | str) -> Flows:
    """Return the flows from one end to another. `port`: a number, or the name of a port of the destination pod.

    Raises `NetpolqError` for an end that does not exist or has no address, or if the ends have no common family.
    """
    sources = addresses_of(known, "--src", source)
    destinations = addresses_of(known, "--dst", destination)
    pair = in_one_family(sources, destinations)
    if pair is None:
        given = isinstance(source, bytes) and isinstance(destination, bytes)
        raise (SettingsError if given else NetpolqError)("--dst: has no address of the same family as --src")
    if not isinstance(destination, HostName):
        return Flows(flows=(Flow(*pair, protocol, _number_of(known, pair[1], protocol, port)),))
    pairs = [pair for each in destinations if (pair := in_one_family(sources, (each,))) is not None]
    return Flows(
        flows=tuple(Flow(*pair, protocol, _number_of(known, pair[1], protocol, port)) for pair in pairs),
        via=f"{destination}, {len(destinations)} learned address{'es' if len(destinations) > 1 else ''}",
        fields={"name": destination.name},
    )


def _number_of(known: Known, destination: AddressKey, protocol: int, port: int | str) -> int:
    if isinstance(port, int):
        return port
    try:
        return resolve_port(known.store.address_owners(), destination, protocol, port)
    except NetpolqError as error:
        raise NetpolqError(f"--port: {error}") from error
