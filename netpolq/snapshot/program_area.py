"""The program area of a snapshot builder: tier programs, programs, and node addresses, put together again when one of them changes.

Tier programs can be moved, so putting the area together copies them and computes no offset inside of them.
"""

from array import array
from collections.abc import Mapping

from netpolq.decision import Isolation
from netpolq.enums import Direction
from netpolq.snapshot.decision_table import DecisionTable
from netpolq.snapshot.hash_table import HashTable
from netpolq.snapshot.ir import Endpoint, Program, TierProgram
from netpolq.snapshot.layout import ENDPOINT_CELL, NO_DECISION, NODE_OF_CELL
from netpolq.snapshot.string_table import StringTable
from netpolq.snapshot.tier_encoder import EncodedTier


class ProgramArea:
    """The PROGRAMS section, and the ENDPOINTS, SHADOWS and NODE_OF sections, which refer to it.

    `words` and the tables are up to date after `assemble`. `is_touched`: whether `words` changed since it was last cleared.
    """

    def __init__(self, strings: StringTable, decisions: DecisionTable) -> None:
        self.words = array("I", [0])
        self.is_touched = True
        self.endpoints = HashTable(ENDPOINT_CELL)
        self.shadows = HashTable(ENDPOINT_CELL)
        self.node_of = HashTable(NODE_OF_CELL)
        self._strings = strings
        self._decisions = decisions
        self._tiers: dict[int, EncodedTier] = {}
        self._programs: dict[int, Program] = {}
        self._program_offsets: dict[int, int] = {0: 0}
        self._endpoints: dict[bytes, Endpoint] = {}
        self._shadows: dict[bytes, Endpoint] = {}
        self._node_addresses: dict[bytes, tuple[bytes, ...]] = {}
        self._is_stale = False
        self._stale_endpoints: set[bytes] = set()
        self._stale_shadows: set[bytes] = set()

    def set_tier(self, number: int, program: TierProgram | None) -> None:
        """Set or remove a tier program."""
        before = self._tiers.pop(number, None)
        if program is not None:
            self._tiers[number] = EncodedTier(program, self._strings, self._decisions)
        if before is not None:
            before.release()
        self._is_stale = True

    def set_program(self, number: int, program: Program | None) -> None:
        """Set or remove a program."""
        before = self._programs.pop(number, None)
        if program is not None:
            self._programs[number] = program
            if program.isolated_by:
                self._decisions.acquire(_isolation(program))
        if before is not None and before.isolated_by:
            self._decisions.release(_isolation(before))
        self._is_stale = True

    def set_endpoint(self, address: bytes, endpoint: Endpoint | None) -> None:
        """Set or remove the programs of an address."""
        if endpoint is None:
            self._endpoints.pop(address, None)
        else:
            self._endpoints[address] = endpoint
        self._stale_endpoints.add(address)

    def set_shadow(self, address: bytes, endpoint: Endpoint | None) -> None:
        """Set or remove the shadow programs of an address."""
        if endpoint is None:
            self._shadows.pop(address, None)
        else:
            self._shadows[address] = endpoint
        self._stale_shadows.add(address)

    def set_node_addresses(self, address: bytes, addresses: tuple[bytes, ...]) -> None:
        """Set the addresses of a pod's own node."""
        self._node_addresses[address] = addresses
        self._is_stale = True

    def assemble(self) -> None:
        """Put everything together that changed."""
        if self._is_stale:
            self._assemble_words()
            self._stale_endpoints.update(self._endpoints)
            self._stale_shadows.update(self._shadows)
            self._is_stale = False
        self._write_cells(self.endpoints, self._endpoints, self._stale_endpoints)
        self._write_cells(self.shadows, self._shadows, self._stale_shadows)

    def _write_cells(self, cells: HashTable, endpoints: Mapping[bytes, Endpoint], stale: set[bytes]) -> None:
        none = Endpoint(0, 0)
        for address in sorted(stale):
            egress, ingress = endpoints.get(address, none)
            cells.set(address, self._program_offsets[egress] | self._program_offsets[ingress] << 32)
        stale.clear()

    def _assemble_words(self) -> None:
        words = array("I", [0])
        tier_offsets = {}
        for number in sorted(self._tiers):
            tier_offsets[number] = len(words)
            words.extend(self._tiers[number].words)
        self._program_offsets = {0: 0}
        isolations: dict[Isolation, int] = {}
        for number in sorted(self._programs):
            program = self._programs[number]
            self._program_offsets[number] = offset = len(words)
            denial = NO_DECISION
            if program.isolated_by:
                isolation = _isolation(program)
                isolations[isolation] = offset
                denial = self._decisions.number(isolation)
            words.extend([denial, len(program.tiers), *(tier_offsets[tier] for tier in program.tiers)])
        self._decisions.set_programs(isolations)
        node_offsets: dict[tuple[bytes, ...], int] = {}
        for address, addresses in self._node_addresses.items():
            if addresses not in node_offsets:
                node_offsets[addresses] = len(words)
                words.append(len(addresses))
                words.frombytes(b"".join(addresses))
            self.node_of.set(address, node_offsets[addresses])
        if words.tobytes() != self.words.tobytes():
            self.words, self.is_touched = words, True


def _isolation(program: Program) -> Isolation:
    return Isolation(Direction(program.direction), program.isolated_by, program.is_rejected)
