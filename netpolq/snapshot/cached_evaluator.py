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

from netpolq.addresses import IPV4_MAPPED_PREFIX
from netpolq.enums import Verdict
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

_Pair = tuple[int, int, int, int, int, tuple[int, ...], tuple[int, ...]]


_Answer = TypeVar("_Answer")


class _Classes(Generic[_Answer]):
    """Port classes of a pair. `starts`: first port of each class, ascending, the first 0. `answers`: one for each; None: not evaluated."""

    __slots__ = ("answers", "starts")

    def __init__(self, starts: "array[int]", answers: list[_Answer | None]) -> None:
        self.starts = starts
        self.answers = answers


class _Pieces:
    """Address pieces of a program. `starts`: first address of each, ascending. `tables`: port tables of the pieces looked up so far."""

    __slots__ = ("starts", "tables")

    def __init__(self, starts: list[int]) -> None:
        self.starts = starts
        self.tables: dict[int, tuple[int, ...]] = {}


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
        # A node has a few hundred pods at most, and one end of nearly every evaluated connection is one of them.
        self._local = {key: (egress, ingress, view.identity(key)) for key, egress, ingress in view.endpoints()}
        self._audited = view.audited()
        self._pairs: dict[_Pair, _Classes[_Answer] | None] = {}
        self._class_count = 0
        self._pieces: tuple[dict[int, _Pieces | None], ...] = ({}, {})  # of IPv6 and of IPv4, by program

    def answer(self, source: bytes, destination: bytes, protocol: int, port: int) -> _Answer:
        """Return the answer for a flow; see `SnapshotReader.evaluate`."""
        local_source, local_destination = self._local.get(source), self._local.get(destination)
        egress = local_source[0] if local_source is not None else 0
        ingress = local_destination[1] if local_destination is not None else 0
        if self._audited and (source in self._audited or destination in self._audited):
            return self._answer_with_audit(source, destination, protocol, port)
        if not (egress or ingress):
            return self._answer_for(UNDECIDED, False)
        if source == destination:  # a pair does not tell two pods of one identity from one
            return self._answer_for(self._view.evaluate(source, destination, protocol, port), False)
        destination_identity = local_destination[2] if local_destination is not None else self._view.identity(destination)
        source_identity = 0
        if ingress:  # egress rules do not depend on the source
            source_identity = local_source[2] if local_source is not None else self._view.identity(source)
        if self._held is not None and (
            (not destination_identity and egress and local_destination is None and destination in self._held[0])
            or (not source_identity and ingress and local_source is None and source in self._held[0])
        ):
            return self._held[1]
        pair = (
            egress,
            ingress,
            source_identity,
            destination_identity,
            protocol,
            self._blocks(egress, destination) if egress else (),
            self._blocks(ingress, source) if ingress else (),
        )
        classes = self._pairs.get(pair)
        if classes is None:
            if pair in self._pairs:
                classes = self._classes(pair, source, destination)
                self._class_count += len(classes.starts)
                if self._class_count > MAX_ALL_CLASSES:
                    self._pairs, self._class_count = {}, len(classes.starts)
                self._pairs[pair] = classes
            else:
                # Dividing the ports takes longer than one evaluation, so it waits for the second flow of the pair.
                if len(self._pairs) >= MAX_PAIRS:
                    self._pairs, self._class_count = {}, 0
                self._pairs[pair] = None
        if classes is None or not classes.starts:
            return self._answer_for(self._view.evaluate(source, destination, protocol, port), False)
        index = bisect_right(classes.starts, port) - 1
        answer = classes.answers[index]
        if answer is None:
            answer = classes.answers[index] = self._answer_for(self._view.evaluate(source, destination, protocol, port), False)
        return answer

    def _answer_with_audit(self, source: bytes, destination: bytes, protocol: int, port: int) -> _Answer:
        """The answer for a flow of a pod that a policy in audit selects: evaluated twice, and kept by no pair."""
        if self._held is not None:
            local_source, local_destination = self._local.get(source), self._local.get(destination)
            egress = local_source[0] if local_source is not None else 0
            ingress = local_destination[1] if local_destination is not None else 0
            for is_isolated, peer, local in ((egress, destination, local_destination), (ingress, source, local_source)):
                if is_isolated and local is None and peer in self._held[0] and not self._view.identity(peer):
                    return self._held[1]
        return self._answer_for(self._view.evaluate_with_audit(source, destination, protocol, port), False)

    def _blocks(self, program: int, peer: bytes) -> tuple[int, ...]:
        """Return the port tables of a program that depend on the peer's address."""
        is_ipv4 = peer.startswith(IPV4_MAPPED_PREFIX)
        of_family = self._pieces[is_ipv4]
        if program not in of_family:
            starts = self._view.starts(program, ipv4=is_ipv4, most=MAX_UNPACKED_PIECES)
            of_family[program] = None if starts is None else _Pieces(starts)
        pieces = of_family[program]
        if pieces is None:
            return self._view.tables_of_address(program, peer)
        if not pieces.starts:
            return ()
        piece = bisect_right(pieces.starts, int.from_bytes(peer[12:] if is_ipv4 else peer))
        tables = pieces.tables.get(piece)
        if tables is None:
            tables = pieces.tables[piece] = self._view.tables_of_address(program, peer)
        return tables

    def _classes(self, pair: _Pair, source: bytes, destination: bytes) -> _Classes[_Answer]:
        view = self._view
        egress, ingress, source_identity, destination_identity, protocol, _, _ = pair
        # The tables for the peer do not depend on the port, so they are looked up once for all classes.
        of_egress = view.candidates(egress, destination, destination_identity) if egress else ()
        of_ingress = view.candidates(ingress, source, source_identity) if ingress else ()
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
