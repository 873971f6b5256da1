"""The cached evaluator: evaluations from a snapshot, fast also for a connection that the worker sees for the first time.

The result depends on the two programs, the identities of both ends, the IP blocks that contain the peer, the protocol, and the port. All
of these but the port form a **pair**, and there are few pairs. When a pair occurs for the second time, the evaluator divides the ports
into classes of equal results and evaluates each class once: a few classes at once, many when a flow needs them. A new address with a
random port then costs its look-ups and one binary search, however many policies there are.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Generic, TypeVar

from netpolq.addresses import IPV4_MAPPED_PREFIX, AddressKey, address_key, packed_address
from netpolq.enums import Direction, Verdict
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq.snapshot.reader import UNDECIDED, Evaluation, SnapshotReader

MAX_PAIRS = 4096
"""Maximum number of cached pairs; at the limit all are dropped. About 7 MB with the largest classes, 2 MB with usual ones."""

MAX_EAGER_CLASSES = 64
"""Up to this many port classes of a pair are evaluated at once. Of more, each is evaluated for the first flow that needs it, because
evaluating hundreds at once would delay packets."""

MAX_CLASSES = 1024
"""A pair with more port classes than this is evaluated each time, so thousands of port ranges cost only the flows that they concern."""

MAX_ALL_CLASSES = 1 << 17
"""Maximum number of port classes of all pairs; at the limit all are dropped. 40 bytes each."""

MAX_UNPACKED_PIECES = 512
"""A program with more address pieces in a family than this is read from the snapshot itself, which takes some microseconds. Unpacking
many pieces for every new snapshot would delay packets."""

_NO_BLOCKS = 0
_BLOCKS_SHIFT = 40
_IDENTITY_SHIFT = 8

_Answer = TypeVar("_Answer")
_Number = TypeVar("_Number", int, tuple[int, ...])


class _Classes(Generic[_Answer]):
    """Port classes of a pair. `starts`: first port of each class, ascending, the first 0. `answers`: one for each; None: not evaluated."""

    __slots__ = ("answers", "starts")

    def __init__(self, starts: "array[int]", answers: list[_Answer | None]) -> None:
        self.starts = starts
        self.answers = answers


class _Pieces:
    """Address pieces of a program in one family. `starts`: first address of each as bytes, ascending; None: too many.

    `blocks`: by piece, and for the addresses before the first one, the number of its set of port tables; None: not looked up so far.
    """

    __slots__ = ("blocks", "starts")

    def __init__(self, starts: list[bytes] | None) -> None:
        self.starts = starts
        self.blocks: list[int | None] = [None] * (len(starts) + 1 if starts is not None else 0)


_NO_PIECES = _Pieces([])


class _Program(Generic[_Answer]):
    """A program of isolated pods, one object for all pods for which its results are the same.

    `ipv4`, `ipv6`: its pieces; None: not unpacked so far. `pairs`: of the flows that no other program decides, by
    `blocks << _BLOCKS_SHIFT | identity of the peer << _IDENTITY_SHIFT | protocol`. None: the pair occurred once.
    """

    __slots__ = ("ipv4", "ipv6", "number", "pairs")

    def __init__(self, number: int) -> None:
        self.number = number
        self.ipv4: _Pieces | None = None
        self.ipv6: _Pieces | None = None
        self.pairs: dict[int, _Classes[_Answer] | None] = {}


class _Endpoint(Generic[_Answer]):
    """A local pod that a policy selects. `egress`, `ingress`: None where none does. `identity`: 0: none."""

    __slots__ = ("egress", "identity", "ingress")

    def __init__(self, egress: _Program[_Answer] | None, ingress: _Program[_Answer] | None, identity: int) -> None:
        self.egress = egress
        self.ingress = ingress
        self.identity = identity


class CachedEvaluator(Generic[_Answer]):
    """Evaluates flows with one reader, and must not outlive it. The evaluations are those of `SnapshotReader.evaluate`.

    `answer_for` makes the answer of an evaluation, which is kept with the port class. Its second argument: the flow is dropped on every
    other port of the protocol too, by the same decision; this is known only for a pair that has port classes.

    `held`: the flows of an isolated pod with a peer in these ranges that has no identity get this answer, which is not kept.
    """

    def __init__(
        self,
        view: SnapshotReader,
        answer_for: Callable[[Evaluation, bool], _Answer],
        *,
        held: tuple[AddressRanges, _Answer] | None = None,
    ) -> None:
        self._view = view
        self._answer_for = answer_for
        self._held = held
        self._blocks: dict[tuple[int, ...], int] = {(): _NO_BLOCKS}
        self._last_blocks = _NO_BLOCKS
        self._programs: dict[tuple[int, int], _Program[_Answer]] = {}
        self._both: dict[tuple[int, ...], _Classes[_Answer] | None] = {}
        self._pair_count = self._class_count = 0
        # A node has a few hundred pods at most, and one end of nearly every evaluated connection is one of them.
        self._endpoints: dict[bytes, _Endpoint[_Answer]] = {}
        for key, egress, ingress in view.endpoints():
            identity = view.identity(key)
            # Of one program, egress does not depend on the pod; ingress may depend on names of its ports.
            endpoint = _Endpoint(self._program(egress, 0), self._program(ingress, identity), identity)
            self._endpoints[key] = self._endpoints[packed_address(AddressKey(key))] = endpoint
        self._audited = frozenset(form for key in view.audited() for form in (key, packed_address(AddressKey(key))))

    def _program(self, number: int, identity: int) -> _Program[_Answer] | None:
        if not number:
            return None
        return self._programs.setdefault((number, identity), _Program(number))

    def answer(self, source: bytes, destination: bytes, protocol: int, port: int) -> _Answer:
        """Return the answer for a flow; see `SnapshotReader.evaluate`. An IPv4 address may also have its four bytes alone."""
        if self._audited and (source in self._audited or destination in self._audited):
            return self._answer_with_audit(source, destination, protocol, port)
        sender, receiver = self._endpoints.get(source), self._endpoints.get(destination)
        if sender is receiver:
            if sender is None:
                return self._answer_for(UNDECIDED, False)
            return self._evaluate(source, destination, protocol, port)  # a pair does not tell two pods of one identity from one
        egress = None if sender is None else sender.egress
        ingress = None if receiver is None else receiver.ingress
        if ingress is None:
            if egress is None:
                return self._answer_for(UNDECIDED, False)
            program, peer, other = egress, destination, receiver
        elif egress is None:
            program, peer, other = ingress, source, sender
        else:
            return self._answer_of_both(egress, ingress, source, destination, protocol, port)
        if len(peer) == 4:
            key, pieces = IPV4_MAPPED_PREFIX + peer, program.ipv4
        elif peer.startswith(IPV4_MAPPED_PREFIX):
            key, peer, pieces = peer, peer[12:], program.ipv4
        else:
            key, pieces = peer, program.ipv6
        if other is not None:
            identity = other.identity
        else:
            identity = self._view.identity(key)
            if not identity and self._held is not None and key in self._held[0]:
                return self._held[1]
        blocks = _NO_BLOCKS if pieces is _NO_PIECES else self._blocks_of(program, peer)
        pair = blocks << _BLOCKS_SHIFT | identity << _IDENTITY_SHIFT | protocol
        classes = program.pairs.get(pair)
        if classes is None:
            classes = self._occurred(program.pairs, pair, source, destination, protocol)
        return self._answer_of_class(classes, source, destination, protocol, port)

    def _answer_of_both(
        self, egress: _Program[_Answer], ingress: _Program[_Answer], source: bytes, destination: bytes, protocol: int, port: int
    ) -> _Answer:
        """The answer for a flow of two local pods, the source isolated for egress and the destination for ingress."""
        pair = (
            egress.number,
            ingress.number,
            self._endpoints[source].identity,
            self._endpoints[destination].identity,
            protocol,
            self._blocks_of(egress, packed_address(destination)),
            self._blocks_of(ingress, packed_address(source)),
        )
        classes = self._both.get(pair)
        if classes is None:
            classes = self._occurred(self._both, pair, source, destination, protocol)
        return self._answer_of_class(classes, source, destination, protocol, port)

    def _answer_of_class(
        self, classes: _Classes[_Answer] | None, source: bytes, destination: bytes, protocol: int, port: int
    ) -> _Answer:
        if classes is None or not classes.starts:
            return self._evaluate(source, destination, protocol, port)
        index = bisect_right(classes.starts, port) - 1
        answer = classes.answers[index]
        if answer is None:
            answer = classes.answers[index] = self._evaluate(source, destination, protocol, port)
        return answer

    def _evaluate(self, source: bytes, destination: bytes, protocol: int, port: int) -> _Answer:
        return self._answer_for(self._view.evaluate(address_key(source), address_key(destination), protocol, port), False)

    def _answer_with_audit(self, source: bytes, destination: bytes, protocol: int, port: int) -> _Answer:
        """The answer for a flow of a pod that a policy in audit selects: evaluated twice, and kept by no pair."""
        keys = address_key(source), address_key(destination)
        if self._held is not None:
            sender, receiver = self._endpoints.get(source), self._endpoints.get(destination)
            is_egress = sender is not None and sender.egress is not None
            is_ingress = receiver is not None and receiver.ingress is not None
            for is_isolated, peer, endpoint in ((is_egress, keys[1], receiver), (is_ingress, keys[0], sender)):
                if is_isolated and endpoint is None and peer in self._held[0] and not self._view.identity(peer):
                    return self._held[1]
        return self._answer_for(self._view.evaluate_with_audit(*keys, protocol, port), False)

    # --- blocks -----------------------------------------------------------------------------------------------------------------------

    def _blocks_of(self, program: _Program[_Answer], peer: bytes) -> int:
        """The number of the set of port tables of a program that depend on the peer's address. `peer`: 4 or 16 bytes."""
        pieces = program.ipv4 if len(peer) == 4 else program.ipv6
        if pieces is None:
            pieces = self._unpack(program, len(peer))
        if pieces.starts is None:
            return self._block_number(program, peer)
        if pieces is _NO_PIECES:
            return _NO_BLOCKS
        piece = bisect_right(pieces.starts, peer)
        number = pieces.blocks[piece]
        if number is None:
            number = pieces.blocks[piece] = self._block_number(program, peer)
        return number

    def _unpack(self, program: _Program[_Answer], address_bytes: int) -> _Pieces:
        is_ipv4 = address_bytes == 4
        starts = self._view.starts(program.number, ipv4=is_ipv4, most=MAX_UNPACKED_PIECES)
        pieces = (
            _Pieces(None if starts is None else [start.to_bytes(address_bytes) for start in starts])
            if starts != []
            else _NO_PIECES
        )
        if is_ipv4:
            program.ipv4 = pieces
        else:
            program.ipv6 = pieces
        return pieces

    def _block_number(self, program: _Program[_Answer], peer: bytes) -> int:
        tables = self._view.tables_of_address(program.number, address_key(peer))
        number = self._blocks.get(tables)
        if number is None:
            if len(self._blocks) >= MAX_PAIRS:
                self._blocks = {(): _NO_BLOCKS}  # numbers are not used again, so pieces may keep theirs
            self._last_blocks += 1
            number = self._blocks[tables] = self._last_blocks
        return number

    # --- pairs ------------------------------------------------------------------------------------------------------------------------

    def _occurred(
        self, pairs: "dict[_Number, _Classes[_Answer] | None]", pair: _Number, source: bytes, destination: bytes, protocol: int
    ) -> _Classes[_Answer] | None:
        """A pair without port classes has occurred. Returns its classes if that was the second time."""
        if pair not in pairs:
            # Dividing the ports takes longer than one evaluation, so it waits for the second flow of the pair.
            if self._pair_count >= MAX_PAIRS:
                self._forget_pairs()
            self._pair_count += 1
            pairs[pair] = None
            return None
        classes = self._classes(address_key(source), address_key(destination), protocol)
        self._class_count += len(classes.starts)
        if self._class_count > MAX_ALL_CLASSES:
            self._forget_pairs()
            self._pair_count, self._class_count = 1, len(classes.starts)
        pairs[pair] = classes
        return classes

    def _forget_pairs(self) -> None:
        for program in self._programs.values():
            program.pairs.clear()
        self._both.clear()
        self._pair_count = self._class_count = 0

    def _classes(self, source: bytes, destination: bytes, protocol: int) -> _Classes[_Answer]:
        view = self._view
        egress, ingress = view.programs(source)[Direction.EGRESS], view.programs(destination)[Direction.INGRESS]
        destination_identity = view.identity(destination)
        # The tables for the peer do not depend on the port, so they are looked up once for all classes.
        of_egress = view.candidates(egress, destination, destination_identity) if egress else ()
        of_ingress = view.candidates(ingress, source, view.identity(source)) if ingress else ()
        starts = {0}
        for table in (table for tables in (*of_egress, *of_ingress) for table in tables):
            for start in view.port_bounds(table, destination_identity, protocol):
                starts.add(start)
                if len(starts) > MAX_CLASSES:
                    return _Classes(array("H"), [])  # undivided
        starts.discard(1 << 16)
        ordered = array("H", sorted(starts))
        if len(ordered) > MAX_EAGER_CLASSES:
            return _Classes(ordered, [None] * len(ordered))
        evaluations = [
            view.evaluate_tables(egress, of_egress, ingress, of_ingress, destination_identity, protocol, port) for port in ordered
        ]
        # One answer may stand for every port only if its reason does, too.
        on_every_port = len(set(evaluations)) == 1 and evaluations[0].verdict is Verdict.DROP
        return _Classes(ordered, [self._answer_for(evaluation, on_every_port) for evaluation in evaluations])
