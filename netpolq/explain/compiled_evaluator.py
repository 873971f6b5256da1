"""The compiled evaluator: evaluates flows from the bytes of a cluster-wide snapshot, with the same reader as the workers."""

import time

from netpolq.addresses import AddressKey
from netpolq.enums import Direction, Reason
from netpolq.policy.compiler import Compiler
from netpolq.policy.evaluator import Explanation, Side
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.reader import SnapshotReader
from netpolq.store import Store


class CompiledEvaluator:
    """An `Evaluator` over the encoded store, with every pod of the cluster as an endpoint."""

    def __init__(self, store: Store) -> None:
        builder = SnapshotBuilder()
        builder.apply(Compiler(store, is_local=lambda _pod: True).everything(with_node_addresses=True))
        self.view = SnapshotReader(builder.encoded(version=1, created_ns=time.time_ns()))

    def explain(self, source: AddressKey, destination: AddressKey, protocol: int, port: int) -> Explanation:
        """Evaluate a flow; see `netpolq.policy.evaluator.Evaluator`."""
        view = self.view
        egress = view.programs(source)[Direction.EGRESS]
        ingress = view.programs(destination)[Direction.INGRESS]
        exempt = None
        if source == destination:
            exempt = Reason.SAME_ADDRESS
        elif source in view.own_node_addresses(destination):
            exempt = Reason.OWN_NODE
        return Explanation.of(
            self._side(egress, destination, destination, protocol, port),
            self._side(ingress, source, destination, protocol, port),
            exempt,
        )

    def _side(self, program: int, peer: bytes, destination: bytes, protocol: int, port: int) -> Side:
        if not program:
            return Side()
        view = self.view
        decision = view.run(program, peer, view.identity(peer), view.identity(destination), protocol, port)
        return Side(isolated_by=view.isolated_by(program), decision=view.decision(decision))
