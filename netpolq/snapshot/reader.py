"""The snapshot reader: read-only access to the bytes of a snapshot, and the evaluation of flows. Nothing is deserialised as a whole.

Workers use it on a mapped memfd, and `netpolq explain` on plain bytes, so both give the same decisions.
"""

from collections.abc import Iterator, Mapping
from mmap import mmap
from typing import NamedTuple, cast
from zlib import crc32

from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, AuditVerdict, Direction, Reason, Tier, Verdict
from netpolq.snapshot.layout import (
    ADDRESS_CELL,
    ENDPOINT_CELL,
    ISOLATION,
    NAME_LENGTH,
    NO_DECISION,
    REJECTED,
    Section,
    TierWord,
)
from netpolq.snapshot.program_reader import Candidates, ProgramReader
from netpolq.snapshot.sections import CELLS, SectionInfo, check

_KEY_BYTES = 16

# Names of this module, because every attribute costs time on the packet path.
_unpack_address_cell = ADDRESS_CELL.unpack_from
_ADDRESS_CELL_BYTES = ADDRESS_CELL.size
_DENY = Action.DENY.value


class Shadow(NamedTuple):
    """What the result would be if the policies in audit were enforced; fields as in `Evaluation`."""

    verdict: Verdict
    egress: int
    ingress: int

    @property
    def label(self) -> str:
        """The value in output: `would-deny` or `would-accept`."""
        return AuditVerdict.of(self.verdict).value


class Evaluation(NamedTuple):
    """The result for a flow: a verdict, and the number of the decision of each direction (see `SnapshotReader.decision`).

    `NO_DECISION`: no policy decides that direction, or a denial in the other direction came first. `shadow` None: the verdict would be the
    same if the policies in audit were enforced.
    """

    verdict: Verdict
    egress: int = NO_DECISION
    ingress: int = NO_DECISION
    shadow: Shadow | None = None

    @property
    def reason(self) -> Reason:
        """The reason, for two different addresses."""
        if self.verdict is Verdict.DROP:
            return Reason.DENIED
        return Reason.ALLOWED if self.egress or self.ingress else Reason.NOT_ISOLATED


UNDECIDED = Evaluation(Verdict.ACCEPT)
"""No policy decides: no policy selects either end."""


class SnapshotReader(ProgramReader):
    """A validated snapshot. `buffer` must not change while the reader is in use."""

    def __init__(self, buffer: bytes | mmap, *, is_validated: bool = False) -> None:
        """See `netpolq.snapshot.sections.check`. Raises `SnapshotError`."""
        contents = check(buffer, is_validated=is_validated)
        self._buffer = buffer
        self._memory = memoryview(buffer)
        self.version = contents.version
        self.created_ns = contents.created_ns
        self._sections = contents.sections
        super().__init__(
            self._cells(Section.PROGRAMS), self._cells(Section.CONTENTS), self._cells(Section.DECISIONS), self._string_bytes
        )
        self._identities = self._cells(Section.IDENTITIES)
        self._string_ends = self._cells(Section.STRINGS)
        self._address_base, _, self._address_slots = self._sections[Section.ADDRESSES]
        self._endpoint_base, _, self._endpoint_slots = self._sections[Section.ENDPOINTS]

    def _cells(self, section: Section) -> memoryview:
        offset, length, entries = self._sections[section]
        words = entries + 1 if section is Section.STRINGS else length // 4
        return self._memory[offset : offset + 4 * words].cast("I")

    def close(self) -> None:
        """Release the memory. The reader must not be used afterwards."""
        for memory in (self._words, self._contents, self._decisions, self._identities, self._string_ends, self._memory):
            memory.release()
        if isinstance(self._buffer, mmap):
            self._buffer.close()

    @property
    def sections(self) -> Mapping[Section, SectionInfo]:
        """Place and number of entries of each section."""
        return self._sections

    # --- evaluation ---------------------------------------------------------------------------------------------------------------

    def evaluate(self, source: bytes, destination: bytes, protocol: int, port: int) -> Evaluation:
        """Evaluate a flow in both directions: egress of the source, then ingress of the destination, as far as they are endpoints.

        Addresses: 16-byte keys. `protocol`: IANA number. `port`: destination port, 0 unless TCP, UDP or SCTP. Two equal addresses: a pod
        has connected to a Service that leads back to it; isolation by NetworkPolicies does not apply then.
        """
        egress = self.programs(source)[Direction.EGRESS]
        ingress = self.programs(destination)[Direction.INGRESS]
        return self._evaluate_programs(egress, ingress, source, destination, protocol, port)

    def evaluate_with_audit(self, source: bytes, destination: bytes, protocol: int, port: int) -> Evaluation:
        """As `evaluate`, with `shadow`. For addresses of which at least one has shadow programs."""
        enforced = self.evaluate(source, destination, protocol, port)
        shadow = self.evaluate_shadow(source, destination, protocol, port)
        if shadow.verdict is enforced.verdict:
            return enforced
        return enforced._replace(shadow=Shadow(shadow.verdict, shadow.egress, shadow.ingress))

    def evaluate_shadow(self, source: bytes, destination: bytes, protocol: int, port: int) -> Evaluation:
        """As `evaluate`, if the policies in audit were enforced."""
        egress = self.shadow_programs(source)[Direction.EGRESS]
        ingress = self.shadow_programs(destination)[Direction.INGRESS]
        return self._evaluate_programs(egress, ingress, source, destination, protocol, port)

    def _evaluate_programs(
        self, egress: int, ingress: int, source: bytes, destination: bytes, protocol: int, port: int
    ) -> Evaluation:
        if not egress and not ingress:
            return UNDECIDED
        destination_identity = self.identity(destination)
        return self.evaluate_tables(
            egress,
            self.candidates(egress, destination, destination_identity) if egress else (),
            ingress,
            self.candidates(ingress, source, self.identity(source)) if ingress else (),
            destination_identity,
            protocol,
            port,
            is_own=source == destination,
        )

    def evaluate_tables(
        self,
        egress: int,
        of_egress: Candidates,
        ingress: int,
        of_ingress: Candidates,
        destination_identity: int,
        protocol: int,
        port: int,
        *,
        is_own: bool = False,
    ) -> Evaluation:
        """Evaluate a flow by the programs (0: none) of both directions and their port tables for the peer.

        `destination_identity`: offset, 0: none. `is_own`: both ends are one address.
        """
        egress_decision = ingress_decision = NO_DECISION
        if egress:
            egress_decision = self.decide(egress, of_egress, destination_identity, protocol, port)
            if is_own and self.is_isolation(egress, egress_decision):
                egress_decision = NO_DECISION
            if self.is_denial(egress_decision):
                return Evaluation(Verdict.DROP, egress=egress_decision)
        if ingress:
            ingress_decision = self.decide(ingress, of_ingress, destination_identity, protocol, port)
            if is_own and self.is_isolation(ingress, ingress_decision):
                ingress_decision = NO_DECISION
            if self.is_denial(ingress_decision):
                return Evaluation(Verdict.DROP, ingress=ingress_decision)
        return Evaluation(Verdict.ACCEPT, egress_decision, ingress_decision)

    def is_denial(self, decision: int) -> bool:
        """Whether a decision denies."""
        return decision != NO_DECISION and self.action(decision) == _DENY

    # --- decisions ----------------------------------------------------------------------------------------------------------------

    def decision(self, number: int) -> Decision | None:
        """A decision by number; None for `NO_DECISION`."""
        if number == NO_DECISION:
            return None
        flags, policy, position, _priority, rule_name = self._record(number)
        direction, tier, is_rejected = Direction(flags >> 8 & 0xFF), flags >> 16 & 0xFF, bool(flags & REJECTED)
        if tier == ISOLATION:
            return Isolation(direction, self.isolated_by(policy), is_rejected)
        action = Action(flags & 0xFF)
        return RuleDecision(direction, Tier(tier), self.string(policy), position, action, self.string(rule_name), is_rejected)

    @property
    def has_rejections(self) -> bool:
        """Whether `is_rejected` holds for any decision."""
        return any(flags & REJECTED for flags in self._decisions[:1])  # a damaged snapshot may have no record at all

    def is_rejected(self, number: int) -> bool:
        """Whether the sender of a packet that this decision denies gets an answer."""
        return bool(self._record(number)[0] & REJECTED)

    def tier(self, number: int) -> Tier | None:
        """The tier of a decision; None for `NO_DECISION`."""
        if number == NO_DECISION:
            return None
        tier = self._record(number)[0] >> 16 & 0xFF
        return Tier.NETWORK_POLICY if tier == ISOLATION else Tier(tier)

    def isolated_by(self, program: int) -> tuple[str, ...]:
        """The NetworkPolicies of a program (ns/name, sorted): they deny what no rule allows. Empty for program 0."""
        words = self._words
        names: list[str] = []
        for tier in self.tiers(program) if program else ():
            policies = tier + words[tier + TierWord.ISOLATED_BY]
            names += map(self.string, words[policies + 1 : policies + 1 + words[policies]])
        return tuple(sorted(names))

    # --- look-ups -----------------------------------------------------------------------------------------------------------------

    def identity(self, address: bytes) -> int:
        """Offset of an address's identity, 0 if it has none."""
        position = self._address_base + (crc32(address) * self._address_slots >> 32) * _ADDRESS_CELL_BYTES
        while True:
            key, number = _unpack_address_cell(self._buffer, position)
            if not number:
                return 0
            if key == address:
                identity: int = self._identities[number]
                return identity
            position += _ADDRESS_CELL_BYTES

    def programs(self, address: bytes) -> tuple[int, int]:
        """Offsets of an address's egress and ingress programs (in the order of `Direction`), 0 where no policy selects it."""
        buffer = self._buffer
        position = self._endpoint_base + (crc32(address) * self._endpoint_slots >> 32) * ENDPOINT_CELL.size
        while True:
            key, programs = ENDPOINT_CELL.unpack_from(buffer, position)
            if key == address or not programs:
                return programs & 0xFFFFFFFF, programs >> 32
            position += ENDPOINT_CELL.size

    def _find(self, section: Section, address: bytes) -> int:
        """The value of an address in a hash table, 0 if it has none."""
        cell = CELLS[section]
        offset, _, slots = self._sections[section]
        position = offset + (crc32(address) * slots >> 32) * cell.size
        while True:
            key, value = cell.unpack_from(self._buffer, position)
            if key == address or not value:
                return cast("int", value)
            position += cell.size

    def shadow_programs(self, address: bytes) -> tuple[int, int]:
        """Offsets of an address's programs if the policies in audit were enforced."""
        programs = self._find(Section.SHADOWS, address)
        return (programs & 0xFFFFFFFF, programs >> 32) if programs else self.programs(address)

    def endpoints(self) -> Iterator[tuple[bytes, int, int]]:
        """Address, egress program and ingress program of every local pod that an enforced policy selects, in no order."""
        return self._endpoint_cells(Section.ENDPOINTS)

    def audited(self) -> frozenset[bytes]:
        """The addresses with shadow programs: those of the local pods that a policy in audit selects."""
        return frozenset(address for address, _egress, _ingress in self._endpoint_cells(Section.SHADOWS))

    def _endpoint_cells(self, section: Section) -> Iterator[tuple[bytes, int, int]]:
        start, length, _ = self._sections[section]
        with self._memory[start : start + length] as memory:
            for key, programs in ENDPOINT_CELL.iter_unpack(memory):
                if programs:
                    yield key, programs & 0xFFFFFFFF, programs >> 32

    def own_node_addresses(self, address: bytes) -> frozenset[bytes]:
        """Addresses of the node that runs the pod with this address; empty in the snapshot of a single node."""
        node = self._find(Section.NODE_OF, address)
        if not node:
            return frozenset()
        count = self._words[node]
        cells = self._words[node + 1 : node + 1 + 4 * count].tobytes()
        return frozenset(cells[start : start + _KEY_BYTES] for start in range(0, len(cells), _KEY_BYTES))

    def pod_name(self, address: bytes) -> str | None:
        """ns/name of the pod with this address; None for an address without a pod, and in a snapshot without names."""
        name = self._find(Section.POD_NAMES, address)
        if not name:
            return None
        start = self._sections[Section.NAMES].offset + name - 1
        (length,) = NAME_LENGTH.unpack_from(self._buffer, start)
        return self._buffer[start + NAME_LENGTH.size : start + NAME_LENGTH.size + length].decode()

    def string(self, number: int) -> str:
        """A string by number."""
        return self._string_bytes(number).decode()

    def _string_bytes(self, number: int) -> bytes:
        offset, _, entries = self._sections[Section.STRINGS]
        base = offset + 4 * (entries + 1)
        return self._buffer[base + self._string_ends[number] : base + self._string_ends[number + 1]]
