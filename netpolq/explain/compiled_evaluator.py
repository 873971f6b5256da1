"""The compiled evaluator: evaluates flows from the bytes of a cluster-wide snapshot, with the same reader as the workers."""

import time

from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.decision import RuleDecision
from netpolq.enums import DenyWith, Direction, Enforcement, Reason, Verdict
from netpolq.policy.compiler import Compiler
from netpolq.policy.evaluator import Explanation, Side
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.program_reader import Candidates
from netpolq.snapshot.reader import SnapshotReader
from netpolq.store import Store


class Pair(NamedTuple):
    """All that decides about flows between two addresses besides protocol and port. Equal pairs have equal explanations.

    `egress`, `ingress`: the program of each direction, 0: none. `of_egress`, `of_ingress`: their port tables for the peer.
    `destination_identity`: its offset. `is_own`: both ends are one address. `is_own_node`: the source is the destination's node.
    """

    egress: int
    of_egress: Candidates
    ingress: int
    of_ingress: Candidates
    destination_identity: int
    is_own: bool
    is_own_node: bool


class CompiledEvaluator:
    """An `Evaluator` over the encoded store, with every pod of the cluster as an endpoint."""

    def __init__(
        self,
        store: Store,
        *,
        deny_with: DenyWith = DenyWith.DROP,
        enforcement: Enforcement = Enforcement.ENFORCE,
        with_audit: bool = False,
    ) -> None:
        """See `netpolq.policy.reference.ReferenceEvaluator`."""
        builder = SnapshotBuilder()
        compiler = Compiler(store, is_local=lambda _pod: True, deny_with=deny_with, enforcement=enforcement)
        self._with_audit = with_audit
        builder.apply(compiler.everything(with_node_addresses=True))
        self.view = SnapshotReader(builder.encoded(version=1, created_ns=time.time_ns()))

    def explain(
        self, source: AddressKey, destination: AddressKey, protocol: int, port: int, *, via_service: bool = False
    ) -> Explanation:
        """Evaluate a flow; see `netpolq.policy.evaluator.Evaluator`."""
        return self.explain_pair(self.pair(source, destination), protocol, port, via_service=via_service)

    def pair(self, source: AddressKey, destination: AddressKey) -> Pair:
        """Return what decides about flows from one address to another. Many pairs of addresses have equal ones."""
        view = self.view
        programs = view.shadow_programs if self._with_audit else view.programs
        egress, ingress = programs(source)[Direction.EGRESS], programs(destination)[Direction.INGRESS]
        identity = view.identity(destination)
        return Pair(
            egress,
            self._tables(egress, destination, identity),
            ingress,
            self._tables(ingress, source, view.identity(source)),
            # Only a program looks up the names of the destination's ports.
            identity if egress or ingress else 0,
            source == destination,
            source in view.own_node_addresses(destination),
        )

    def explain_pair(self, pair: Pair, protocol: int, port: int, *, via_service: bool = False) -> Explanation:
        """Evaluate a flow between the addresses of a pair; see `netpolq.policy.evaluator.Evaluator`."""
        sides = (
            self._side(pair.egress, pair.of_egress, pair.destination_identity, protocol, port),
            self._side(pair.ingress, pair.of_ingress, pair.destination_identity, protocol, port),
        )
        if pair.is_own:
            return Explanation.of_own(*sides, via_service=via_service)
        return Explanation.of(*sides, Reason.OWN_NODE if pair.is_own_node else None)

    def accepts_pair(self, pair: Pair, protocol: int, port: int) -> bool:
        """Return whether `explain_pair` accepts a flow. Much faster: as a worker, it does not read the reasons."""
        if pair.is_own or pair.is_own_node:
            return True
        evaluation = self.view.evaluate_tables(*pair[:4], pair.destination_identity, protocol, port)
        return evaluation.verdict is Verdict.ACCEPT

    def _tables(self, program: int, peer: AddressKey, identity: int) -> Candidates:
        return tuple(map(tuple, self.view.candidates(program, peer, identity))) if program else ()

    def _side(self, program: int, tables: Candidates, destination_identity: int, protocol: int, port: int) -> Side:
        if not program:
            return Side()
        view = self.view
        passes: list[int] = []
        decision = view.decide(program, tables, destination_identity, protocol, port, passes)
        return Side(
            isolated_by=view.isolated_by(program),
            decision=view.decision(decision),
            passes=tuple(rule for number in passes if isinstance(rule := view.decision(number), RuleDecision)),
        )
