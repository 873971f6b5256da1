"""The compiled evaluator: evaluates flows from the bytes of a cluster-wide snapshot, with the same reader as the workers."""

import time

from netpolq.addresses import AddressKey
from netpolq.decision import RuleDecision
from netpolq.enums import DenyWith, Direction, Reason
from netpolq.policy.compiler import Compiler
from netpolq.policy.evaluator import Explanation, Side
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.reader import SnapshotReader
from netpolq.store import Store


class CompiledEvaluator:
    """An `Evaluator` over the encoded store, with every pod of the cluster as an endpoint."""

    def __init__(self, store: Store, *, deny_with: DenyWith = DenyWith.DROP) -> None:
        """`deny_with`: what a denial does where no annotation says."""
        builder = SnapshotBuilder()
        compiler = Compiler(store, is_local=lambda _pod: True, deny_with=deny_with)
        builder.apply(compiler.everything(with_node_addresses=True))
        self.view = SnapshotReader(builder.encoded(version=1, created_ns=time.time_ns()))

    def explain(
        self, source: AddressKey, destination: AddressKey, protocol: int, port: int, *, via_service: bool = False
    ) -> Explanation:
        """Evaluate a flow; see `netpolq.policy.evaluator.Evaluator`."""
        view = self.view
        egress = view.programs(source)[Direction.EGRESS]
        ingress = view.programs(destination)[Direction.INGRESS]
        sides = (
            self._side(egress, destination, destination, protocol, port),
            self._side(ingress, source, destination, protocol, port),
        )
        if source == destination:
            return Explanation.of_own(*sides, via_service=via_service)
        return Explanation.of(*sides, Reason.OWN_NODE if source in view.own_node_addresses(destination) else None)

    def _side(self, program: int, peer: bytes, destination: bytes, protocol: int, port: int) -> Side:
        if not program:
            return Side()
        view = self.view
        passes: list[int] = []
        candidates = view.candidates(program, peer, view.identity(peer))
        decision = view.decide(program, candidates, view.identity(destination), protocol, port, passes)
        return Side(
            isolated_by=view.isolated_by(program),
            decision=view.decision(decision),
            passes=tuple(rule for number in passes if isinstance(rule := view.decision(number), RuleDecision)),
        )
