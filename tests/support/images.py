"""Snapshots as values, and their encoding from scratch. Equal images give equal bytes, except for version and time.

The supervisor publishes from a `SnapshotBuilder` that it patches. Tests build a small snapshot from a value here, and compare the
contents of two builders independent of their history.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.ir import Identity, Program, Rule
from netpolq.snapshot.program_encoder import RelocatableProgram, encode_addresses, encode_program, tables_of


class Endpoint(NamedTuple):
    """Programs of an isolated pod's address; None: not isolated in that direction."""

    egress: Program | None
    ingress: Program | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Everything a worker needs. Addresses are 16-byte keys (`netpolq.addresses`).

    `selectors`: the selectors by id; not encoded, but two images with different ones cannot be compared
    by number. `addresses`: address → index into `identities`; an address without a distinguishing rule in use is left out.
    `node_of`: pod address → index into `nodes`, the addresses of the pod's own node; only filled for cluster-wide images, because on
    a node the kernel knows its own packets without looking at addresses. `pod_names`: pod address → ns/name; only filled where names
    are read, because evaluation needs none and they cost memory and a new version for each pod that comes or goes.
    """

    rules: tuple[Rule, ...] = ()
    selectors: tuple[object, ...] = ()
    identities: tuple[Identity, ...] = ()
    addresses: Mapping[bytes, int] = field(default_factory=dict)
    endpoints: Mapping[bytes, Endpoint] = field(default_factory=dict)
    nodes: tuple[tuple[bytes, ...], ...] = ()
    node_of: Mapping[bytes, int] = field(default_factory=dict)
    pod_names: Mapping[bytes, str] = field(default_factory=dict)


def encode(image: Image, *, version: int, created_ns: int) -> bytes:
    """The bytes of an image. `version`: snapshot version, rising; `created_ns`: Unix time in nanoseconds."""
    return builder_of(image).encoded(version=version, created_ns=created_ns)


def builder_of(image: Image) -> SnapshotBuilder:
    """Return a builder with the contents of an image."""
    builder = SnapshotBuilder()
    # In sorted order throughout, so that the bytes come out the same however the mappings came about.
    for name in sorted(_names(image)):
        builder.strings.acquire(name)
    numbers = [builder.identities.add(identity) for identity in image.identities]
    builder.addresses.reserve(len(image.addresses))
    for address in sorted(image.addresses):
        builder.addresses.set(address, numbers[image.addresses[address]])
    for address in sorted(image.pod_names):
        builder.pod_names.set(address, image.pod_names[address])
    indices: dict[Program, int] = {}
    encoded_programs: list[RelocatableProgram] = []
    endpoints: dict[bytes, tuple[int, int]] = {}
    for address in sorted(image.endpoints):
        egress, ingress = (_place(image, builder, program, indices, encoded_programs) for program in image.endpoints[address])
        endpoints[address] = egress, ingress
    builder.set_programs(encoded_programs, endpoints)
    builder.set_nodes([encode_addresses(addresses) for addresses in image.nodes], image.node_of)
    builder.collect_garbage()
    return builder


def _place(
    image: Image,
    builder: SnapshotBuilder,
    program: Program | None,
    indices: dict[Program, int],
    encoded_programs: list[RelocatableProgram],
) -> int:
    if program is None:
        return -1
    index = indices.get(program)
    if index is None:
        index = indices[program] = len(encoded_programs)
        encoded_programs.append(encode_program(program, image.rules, builder.strings.number))
    return index


def _names(image: Image) -> set[str]:
    names = {rule.policy for rule in image.rules}
    for identity in image.identities:
        names.update(name for name, _protocol, _port in identity.named_ports)
    for endpoint in image.endpoints.values():
        for program in endpoint:
            for tier in program or ():
                names.update(tier.isolated_by)
                for table in tables_of(tier):
                    names.update(name.name for name in table.names)
    return names
