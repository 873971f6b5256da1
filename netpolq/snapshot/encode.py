"""Image → bytes, from scratch. Deterministic: equal images give equal bytes, but for the version and time in the header.

What the supervisor publishes is a `Draft` that it patches. This is how one is made from a value: for tests, and to compare what two
drafts say however they came about.
"""

from netpolq.snapshot.code import Code, encode_addresses, encode_program, tables_of
from netpolq.snapshot.draft import Draft
from netpolq.snapshot.image import Image, Program


def encode(image: Image, *, version: int, created_ns: int) -> bytes:
    """The bytes of an image. `version`: snapshot version, rising; `created_ns`: Unix time in nanoseconds."""
    return draft_of(image).encoded(version=version, created_ns=created_ns)


def draft_of(image: Image) -> Draft:
    """A draft that says what an image says."""
    draft = Draft()
    # In sorted order throughout, so that the bytes come out the same however the mappings came about.
    for name in sorted(_names(image)):
        draft.strings.acquire(name)
    numbers = [draft.identities.add(identity) for identity in image.identities]
    draft.addresses.reserve(len(image.addresses))
    for address in sorted(image.addresses):
        draft.addresses.set(address, numbers[image.addresses[address]])
    for address in sorted(image.pod_names):
        draft.pod_names.set(address, image.pod_names[address])
    places: dict[Program, int] = {}
    codes: list[Code] = []
    endpoints: dict[bytes, tuple[int, int]] = {}
    for address in sorted(image.endpoints):
        egress, ingress = (_place(image, draft, program, places, codes) for program in image.endpoints[address])
        endpoints[address] = egress, ingress
    draft.set_programs(codes, endpoints)
    draft.set_nodes([encode_addresses(addresses) for addresses in image.nodes], image.node_of)
    draft.sweep()
    return draft


def _place(image: Image, draft: Draft, program: Program | None, places: dict[Program, int], codes: list[Code]) -> int:
    if program is None:
        return -1
    place = places.get(program)
    if place is None:
        place = places[program] = len(codes)
        codes.append(encode_program(program, image.rules, draft.strings.number))
    return place


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
