"""Connections counted by the policy and rule that decided them, for `netpolq_policy_connections_total`."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from netpolq.decision import Decision, Isolation, tier_of
from netpolq.enums import Action, PolicyMetrics
from netpolq.flows.record import FlowVerdict
from netpolq.ipc.flow_memory import Reasons

MAX_SERIES = 10_000
"""Series kept at most; those that were counted least recently are dropped, as if the agent had restarted for them."""


class Series(NamedTuple):
    """The labels of the metric. `policy_namespace`: empty for a cluster-wide policy; not `namespace`, which scraping sets to that of the
    agent's pod. `rule`: name or 0-based index; empty for isolation.
    """

    tier: str
    policy_namespace: str
    policy: str
    rule: str
    direction: str
    verdict: str


class PolicyCounters:
    """Counters by series. `level`: whether there is one for each rule, or for each policy."""

    def __init__(self, level: PolicyMetrics) -> None:
        self._with_rules = level is PolicyMetrics.RULE
        self._is_on = level is not PolicyMetrics.OFF
        self._counts: dict[Series, int] = {}

    @property
    def counts(self) -> Mapping[Series, int]:
        """Connections by series, the least recently counted first."""
        return self._counts

    def add(self, reasons: Reasons, connections: int) -> None:
        """Count connections. All policies that isolate a pod are counted for a denial by isolation."""
        if not self._is_on:
            return
        verdict = FlowVerdict.ACCEPT if reasons.is_accept else FlowVerdict.DENY
        for decision in (reasons.egress, reasons.ingress):
            self._count(decision, verdict, connections)
        if reasons.audit_is_accept is not None and reasons.audit_is_accept is not reasons.is_accept:
            would_be = FlowVerdict.WOULD_ACCEPT if reasons.audit_is_accept else FlowVerdict.WOULD_DENY
            for decision in (reasons.audit_egress, reasons.audit_ingress):
                if _decides(decision, is_accept=reasons.audit_is_accept):
                    self._count(decision, would_be, connections)

    def _count(self, decision: Decision | None, verdict: FlowVerdict, connections: int) -> None:
        for series in _series(decision, verdict, with_rules=self._with_rules):
            self._counts[series] = self._counts.pop(series, 0) + connections
        while len(self._counts) > MAX_SERIES:
            del self._counts[next(iter(self._counts))]


def _decides(decision: Decision | None, *, is_accept: bool) -> bool:
    return decision is not None and (not isinstance(decision, Isolation) and decision.action is Action.ACCEPT) is is_accept


def _series(decision: Decision | None, verdict: FlowVerdict, *, with_rules: bool) -> Iterator[Series]:
    if decision is None:
        return
    tier, direction = tier_of(decision).label, decision.direction.name.lower()
    policies = decision.policies if isinstance(decision, Isolation) else (decision.policy,)
    rule = ""
    if with_rules and not isinstance(decision, Isolation):
        rule = decision.name or str(decision.position)
    for policy in policies:
        namespace, name = policy.split("/", 1) if tier == "network-policy" and "/" in policy else ("", policy)
        yield Series(tier, namespace, name, rule, direction, verdict.value)
