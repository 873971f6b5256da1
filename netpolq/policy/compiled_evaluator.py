"""The compiled evaluator: evaluates flows from the bytes of a cluster-wide snapshot, with the same reader as the workers."""

import time

from netpolq.addresses import AddressKey
from netpolq.enums import Direction, Reason, Verdict
from netpolq.policy.compiler import compile_snapshot
from netpolq.policy.evaluator import Explanation, Side
from netpolq.snapshot.reader import NO_RULE, SnapshotReader
from netpolq.store import Store


class CompiledEvaluator:
    """An `Evaluator` over the encoded store, with every pod of the cluster as an endpoint.

    `rejections`: the parts of the store that are not in these bytes.
    """

    def __init__(self, store: Store) -> None:
        compiler = compile_snapshot(store, is_local=lambda _pod: True, with_nodes=True)
        self.rejections = compiler.rejections
        self.view = SnapshotReader(compiler.builder.encoded(version=1, created_ns=time.time_ns()))

    def explain(self, source: AddressKey, destination: AddressKey, protocol: int, port: int) -> Explanation:
        """Evaluate a flow; see `netpolq.policy.evaluator.Evaluator`."""
        view = self.view
        egress = view.programs(source)[Direction.EGRESS]
        ingress = view.programs(destination)[Direction.INGRESS]
        sides = (
            self._side(egress, destination, destination, protocol, port),
            self._side(ingress, source, destination, protocol, port),
        )
        if source != destination and source in view.own_node_addresses(destination):
            verdict, reason = Verdict.ACCEPT, Reason.OWN_NODE
        else:
            decision = view.evaluate(source, destination, protocol, port)
            verdict, reason = decision.verdict, decision.reason
        return Explanation(verdict=verdict, reason=reason, egress=sides[Direction.EGRESS], ingress=sides[Direction.INGRESS])

    def _side(self, program: int, peer: bytes, destination: bytes, protocol: int, port: int) -> Side:
        if not program:
            return Side()
        view = self.view
        allowed, number = view.run(program, peer, view.identity(peer), view.identity(destination), protocol, port)
        isolated_by = tuple(view.isolated_by(program))
        if not allowed or number == NO_RULE:
            return Side(isolated_by=isolated_by)
        rule = view.rule(number)
        return Side(isolated_by=isolated_by, allowed_by=rule.policy, rule=rule.position)
