"""Image → bytes. Pure and deterministic: equal images give equal bytes, but for the version and time in the header."""

import zlib

from array import array
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct

from netpolq.enums import Protocol
from netpolq.snapshot.image import Block, Endpoint, Identity, Image, PortTable, Program, TierProgram
from netpolq.snapshot.layout import (
    ADDRESS_SLOT,
    BYTE_ORDER_MARK,
    ENDPOINT_SLOT,
    HEADER,
    LAYOUT_VERSION,
    MAGIC,
    NODE_OF_SLOT,
    POD_NAME_SLOT,
    PREFIX_BYTES,
    RULE,
    SECTION,
    Section,
)

_PROTOCOL_ORDER = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


def encode(image: Image, *, version: int, created_ns: int) -> bytes:
    """The bytes of an image. `version`: snapshot version, rising; `created_ns`: Unix time in nanoseconds."""
    strings = _Strings(image)
    words = _Words(strings)
    sections: dict[Section, tuple[bytes, int]] = {}

    identities = array("I", (words.identity(identity) for identity in image.identities))
    # In sorted order, so that the words lie the same way however the mapping came about.
    endpoints = {key: words.endpoint(image.endpoints[key]) for key in sorted(image.endpoints)}
    nodes = [words.node(addresses) for addresses in image.nodes]
    sections[Section.ADDRESSES] = _hash_table(ADDRESS_SLOT, {key: (number + 1,) for key, number in image.addresses.items()})
    sections[Section.ENDPOINTS] = _hash_table(ENDPOINT_SLOT, endpoints)
    sections[Section.NODE_OF] = _hash_table(NODE_OF_SLOT, {key: (nodes[number],) for key, number in image.node_of.items()})
    pod_names = {key: (strings.number[name] + 1,) for key, name in image.pod_names.items()}
    sections[Section.POD_NAMES] = _hash_table(POD_NAME_SLOT, pod_names)
    sections[Section.IDENTITIES] = identities.tobytes(), len(identities)
    sections[Section.RULES] = (
        b"".join(
            RULE.pack(strings.number[rule.policy], rule.tier << 16 | rule.direction << 8 | rule.action, rule.position)
            for rule in image.rules
        ),
        len(image.rules),
    )
    sections[Section.STRINGS] = strings.encoded(), len(strings.number)
    sections[Section.WORDS] = words.cells.tobytes(), len(words.cells)
    return _assemble(sections, version=version, created_ns=created_ns)


def _assemble(sections: Mapping[Section, tuple[bytes, int]], *, version: int, created_ns: int) -> bytes:
    table = bytearray()
    body = bytearray()
    for section in Section:
        data, entries = sections[section]
        table += SECTION.pack(PREFIX_BYTES + len(body), len(data), zlib.crc32(data), entries)
        body += data
        body += b"\x00" * (-len(body) % 8)

    def header(checksum: int) -> bytes:
        total = PREFIX_BYTES + len(body)
        return HEADER.pack(MAGIC, LAYOUT_VERSION, BYTE_ORDER_MARK, version, total, created_ns, len(Section), checksum)

    return header(zlib.crc32(header(0) + table)) + table + body


def _hash_table(slot: Struct, entries: Mapping[bytes, tuple[int, ...]]) -> tuple[bytes, int]:
    slots = 1
    while slots * 2 < len(entries) * 3:
        slots *= 2
    table = bytearray(slots * slot.size)
    used = bytearray(slots)
    for key in sorted(entries):
        place = zlib.crc32(key) & (slots - 1)
        while used[place]:
            place = (place + 1) & (slots - 1)
        used[place] = 1
        slot.pack_into(table, place * slot.size, key, *entries[key])
    return bytes(table), slots


class _Strings:
    """Names of policies, ports and pods, numbered in sorted order."""

    def __init__(self, image: Image) -> None:
        names: set[str] = {rule.policy for rule in image.rules} | set(image.pod_names.values())
        for identity in image.identities:
            names.update(name for name, _protocol, _port in identity.named_ports)
        for endpoint in image.endpoints.values():
            for program in endpoint:
                for tier in program or ():
                    names.update(tier.isolated_by)
                    for table in _tables(tier):
                        names.update(name.name for name in table.names)
        self.number = {name: number for number, name in enumerate(sorted(names))}

    def encoded(self) -> bytes:
        texts = [name.encode() for name in self.number]
        offsets = array("I", [0])
        for text in texts:
            offsets.append(offsets[-1] + len(text))
        return offsets.tobytes() + b"".join(texts)


def _tables(tier: TierProgram) -> Iterable[PortTable]:
    if tier.any_peer is not None:
        yield tier.any_peer
    for _selector, table in tier.selectors:
        yield table
    for _block, table in tier.blocks:
        yield table


class _Words:
    """The WORDS section while it grows. Equal structures are stored once."""

    def __init__(self, strings: _Strings) -> None:
        self.cells = array("I", [0])
        if self.cells.itemsize != 4:  # pragma: no cover
            raise SystemError(f"array('I') has {self.cells.itemsize} bytes on this platform, not 4")
        self._number = strings.number
        self._placed: dict[tuple[int, ...], int] = {}
        self._programs: dict[Program, int] = {}
        self._port_tables: dict[PortTable, int] = {}

    def _place(self, cells: Sequence[int]) -> int:
        key = tuple(cells)
        offset = self._placed.get(key)
        if offset is None:
            offset = self._placed[key] = len(self.cells)
            self.cells.extend(key)
        return offset

    def identity(self, identity: Identity) -> int:
        cells = [len(identity.selectors), *identity.selectors, len(identity.named_ports)]
        for name, protocol, port in identity.named_ports:
            cells += (self._number[name], protocol << 16 | port)
        return self._place(cells)

    def node(self, addresses: Sequence[bytes]) -> int:
        cells = [len(addresses)]
        for address in addresses:
            cells += array("I", address)
        return self._place(cells)

    def endpoint(self, endpoint: Endpoint) -> tuple[int, int]:
        return self._program(endpoint.egress), self._program(endpoint.ingress)

    def _program(self, program: Program | None) -> int:
        if program is None:
            return 0
        offset = self._programs.get(program)
        if offset is None:
            offset = self._programs[program] = self._place([len(program), *(self._tier(tier) for tier in program)])
        return offset

    def _tier(self, tier: TierProgram) -> int:
        isolated_by = self._place([len(tier.isolated_by), *(self._number[policy] for policy in tier.isolated_by)])
        cells = [
            tier.tier,
            isolated_by,
            0 if tier.any_peer is None else self._port_table(tier.any_peer),
            self._blocks(tier, version=4),
            self._blocks(tier, version=6),
            len(tier.selectors),
            *(selector for selector, _table in tier.selectors),
            *(self._port_table(table) for _selector, table in tier.selectors),
        ]
        return self._place(cells)

    def _port_table(self, table: PortTable) -> int:
        offset = self._port_tables.get(table)
        if offset is not None:
            return offset
        ranges = dict(table.ranges)
        ends: list[int] = []
        bounds: list[int] = []
        rules: list[int] = []
        for protocol in _PROTOCOL_ORDER:
            for port_range in ranges.get(protocol, ()):
                bounds.append(port_range.low << 16 | port_range.high)
                rules.append(port_range.rule)
            ends.append(len(bounds))
        cells = [0 if table.every is None else table.every + 1, *ends, len(table.names), *bounds, *rules]
        for name in table.names:
            cells += (self._number[name.name], name.protocol, name.rule)
        offset = self._port_tables[table] = self._place(cells)
        return offset

    def _blocks(self, tier: TierProgram, *, version: int) -> int:
        by_length: dict[int, dict[int, list[tuple[Block, PortTable]]]] = {}
        for block, table in tier.blocks:
            if block.version == version:
                by_length.setdefault(block.prefix_length, {}).setdefault(block.network, []).append((block, table))
        if not by_length:
            return 0
        cells = [len(by_length)]
        for prefix_length in sorted(by_length):
            networks = by_length[prefix_length]
            numbers: list[int] = []
            lists: list[int] = []
            for network in sorted(networks):
                numbers += _number_words(network, version)
                block_list = [len(networks[network])]
                for block, table in networks[network]:
                    block_list += (self._port_table(table), self._exceptions(block))
                lists.append(self._place(block_list))
            cells += (prefix_length, len(networks), self._place(numbers), self._place(lists))
        return self._place(cells)

    def _exceptions(self, block: Block) -> int:
        cells = [len(block.except_)]
        for low, high in block.except_:
            cells += (*_number_words(low, block.version), *_number_words(high, block.version))
        return self._place(cells)


def _number_words(number: int, version: int) -> tuple[int, ...]:
    if version == 4:
        return (number,)
    return tuple(number >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0))
