"""The CIDR table gives the same rules as the blocks themselves."""

import random

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.enums import Protocol
from netpolq.model import PolicyPort
from netpolq.policy.cidr_table import cidr_tree
from netpolq.policy.peers import AddressRange, Block
from netpolq.policy.port_table import MAX_MERGED_ENTRIES, Ports, TableBuilder
from netpolq.snapshot.ir import AddressTable, PortTable

BITS = {4: 32, 6: 128}
# Blocks and exceptions lie in 64 addresses at either end of the address space, so that they meet.
ENDS = (0, -64)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    version = draw(st.sampled_from(sorted(BITS)))
    top = 1 << BITS[version]
    host_bits = draw(st.sampled_from([0, 1, 3, 5, 6, BITS[version]]))
    inside = (draw(st.sampled_from(ENDS)) + draw(st.integers(0, 63))) % top
    network = inside >> host_bits << host_bits
    bounds = sorted(draw(st.sets(st.integers(0, 63), max_size=8)))
    bounds = bounds[: len(bounds) // 2 * 2]
    offsets = [(draw(st.sampled_from(ENDS)) + bound) % top for bound in bounds]
    last = network + (1 << host_bits) - 1
    exceptions: list[AddressRange] = []
    for low, high in sorted((min(pair), max(pair)) for pair in zip(offsets[::2], offsets[1::2], strict=True)):
        if network <= low and high <= last and (not exceptions or low > exceptions[-1].high + 1):
            exceptions.append(AddressRange(low, high))
    return Block(version, BITS[version] - host_bits, network, tuple(exceptions))


Rules = Mapping[Block, Sequence[tuple[int, Ports]]]
"""The rules about each block: rank and ports."""


def build(rules: Rules) -> AddressTable | None:
    ports = dict(rule for found in rules.values() for rule in found)
    by_rank = [ports.get(rank) for rank in range(max(ports, default=-1) + 1)]
    tree = cidr_tree({block: [rank for rank, _ports in found] for block, found in rules.items()})
    return None if tree is None else tree.address_table(TableBuilder(by_rank, tree.nodes).tables)


def holds(block: Block, address: int) -> bool:
    shift = BITS[block.version] - block.prefix_length
    return address >> shift == block.network >> shift and not any(low <= address <= high for low, high in block.except_)


def port(number: int) -> PolicyPort:
    return PolicyPort(Protocol.TCP, number)


def answer(table: AddressTable | None, address: int, number: int) -> int | None:
    """The lowest rule for an address and a TCP port, by walking all pieces."""
    if table is None:
        return None
    found: list[int] = []
    piece = sum(start <= address for start in table.starts) - 1
    node = len(table.starts) + piece if piece >= 0 else 0
    while node:
        for ports in table.tables[table.nodes[node] - 1] if table.nodes[node] else ():
            ranges = dict(ports.ranges).get(Protocol.TCP, ())
            found += [entry.rank for entry in ranges if entry.low <= number <= entry.high]
            found += [] if ports.every is None else [ports.every]
        node //= 2
    return min(found, default=None)


@given(st.lists(st.tuples(blocks(), st.none() | st.integers(1, 3)), max_size=12))
def test_a_piece_has_the_rules_of_the_blocks_that_hold_it(rules: list[tuple[Block, int | None]]) -> None:
    by_block: dict[Block, list[tuple[int, Ports]]] = {}
    for number, (block, port_number) in enumerate(rules):
        by_block.setdefault(block, []).append((number, None if port_number is None else (port(port_number),)))
    for version, bits in BITS.items():
        table = build({block: found for block, found in by_block.items() if block.version == version})
        for address in ((end + offset) % (1 << bits) for end in (*ENDS, 64, 1 << bits - 1) for offset in range(64)):
            for number in (1, 2, 3):
                expected = [
                    place
                    for place, (block, port_number) in enumerate(rules)
                    if block.version == version and holds(block, address) and port_number in {None, number}
                ]
                assert answer(table, address, number) == min(expected, default=None)


def everything_but(*excepted: int) -> Block:
    return Block(4, 0, 0, tuple(AddressRange(address, address) for address in excepted))


def sizes(rules: Rules) -> tuple[int, int]:
    """Pieces, and port ranges of all different tables."""
    table = build(rules)
    assert table is not None
    return len(table.starts), sum(len(ranges) for ports in different_tables(table) for _protocol, ranges in ports.ranges)


def different_tables(table: AddressTable) -> set[PortTable]:
    return {ports for tables in table.tables for ports in tables}


def test_blocks_that_overlap_are_not_squared() -> None:
    def overlapping(count: int) -> Rules:
        return {everything_but(1000 + 2 * n): [(n, (port(2 * n + 1),))] for n in range(count)}

    few, many = sizes(overlapping(100)), sizes(overlapping(1600))
    assert many[0] <= 17 * few[0]
    # Sixteen times as many, and four levels more: squared it would be 256 times.
    assert many[1] <= 16 * 2 * few[1]


def test_many_blocks_of_one_rule_share_its_ports() -> None:
    ports = tuple(port(2 * n + 1) for n in range(100))
    pieces, ranges = sizes({Block(4, 32, 2 * n, ()): [(0, ports)] for n in range(1000)})
    assert pieces == 2000
    assert ranges == 100


def test_rules_that_multiply_addresses_by_ports_stay_in_force_and_are_not_merged() -> None:
    """Each of 20 rules has 300 exceptions and 300 ports; merged they would make millions of entries."""
    rng = random.Random(0)
    greedy: dict[Block, list[tuple[int, Ports]]] = {
        everything_but(*sorted(2 * number for number in rng.sample(range(1 << 20), 300))): [
            (rank, tuple(port(10 + 20 * n + rank) for n in range(300)))
        ]
        for rank in range(20)
    }
    table = build({**greedy, Block(4, 8, int(IPv4Address("10.0.0.0")), ()): [(20, (port(7),))]})
    assert table is not None
    assert max(map(len, table.tables)) > 1, "some rules have a table of their own"
    assert sum(len(ranges) for ports in different_tables(table) for _protocol, ranges in ports.ranges) <= MAX_MERGED_ENTRIES
    assert sum(map(len, table.tables)) < 300 * 20 * 2 * 14, "no more than two nodes of each level for each exception"
    assert answer(table, int(IPv4Address("10.1.2.3")), 7) == 20
    for rank in range(20):
        assert answer(table, int(IPv4Address("203.0.113.1")), 10 + rank) == rank


@pytest.mark.parametrize("address", [0, 1, (1 << 32) - 1])
def test_a_block_of_all_addresses_has_one_piece(address: int) -> None:
    table = build({everything_but(): [(0, None)]})
    assert table is not None
    assert table.starts == (0,)
    assert answer(table, address, 1) == 0


def test_a_block_that_its_exceptions_use_up_holds_nothing() -> None:
    network = int(IPv6Address("2001:db8::"))
    used_up = Block(6, 127, network, (AddressRange(network, network + 1),))
    assert build({used_up: [(0, None)]}) is None
