"""The evaluator contract: the explanation that both the compiled evaluator and the reference evaluator return."""

from dataclasses import dataclass, replace
from typing import Protocol

from netpolq.addresses import AddressKey
from netpolq.decision import Decision, Isolation, RuleDecision, denies
from netpolq.enums import Direction, Reason, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One direction of a flow. `isolated_by`: the NetworkPolicies (ns/name, sorted) that isolate the pod in this direction.

    `decision`: of the first tier in which a rule accepts or denies; None: no policy decides, so the direction is accepted.
    `passes`: the rules that left the flow to the next tier, in the order of the tiers.
    """

    isolated_by: tuple[str, ...] = ()
    decision: Decision | None = None
    passes: tuple[RuleDecision, ...] = ()

    @property
    def denies(self) -> bool:
        return denies(self.decision)

    def without_isolation(self) -> "Side":
        """The same direction if isolation denies nothing."""
        return replace(self, decision=None) if isinstance(self.decision, Isolation) else self

    @property
    def rule(self) -> RuleDecision | None:
        """The rule that decides, if one does."""
        return None if isinstance(self.decision, Isolation) else self.decision

    @property
    def allowing_rule(self) -> RuleDecision | None:
        """The rule that allows the flow, if one does."""
        return None if self.denies else self.rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A cluster-wide verdict and its reasons: egress of the source and ingress of the destination."""

    verdict: Verdict
    reason: Reason
    egress: Side
    ingress: Side

    @classmethod
    def of(cls, egress: Side, ingress: Side, exempt: Reason | None) -> "Explanation":
        """Combine two directions. `exempt`: why the flow is accepted whatever the policies decide, or None."""
        if exempt is not None:
            return cls(verdict=Verdict.ACCEPT, reason=exempt, egress=egress, ingress=ingress)
        if egress.denies or ingress.denies:
            return cls(verdict=Verdict.DROP, reason=Reason.DENIED, egress=egress, ingress=ingress)
        decided = egress.decision is not None or ingress.decision is not None
        reason = Reason.ALLOWED if decided else Reason.NOT_ISOLATED
        return cls(verdict=Verdict.ACCEPT, reason=reason, egress=egress, ingress=ingress)

    @classmethod
    def of_own(cls, egress: Side, ingress: Side, *, via_service: bool) -> "Explanation":
        """Combine two directions of a flow from an address to itself; see `Evaluator`."""
        if not via_service:
            return cls.of(egress, ingress, Reason.SAME_ADDRESS)
        egress, ingress = egress.without_isolation(), ingress.without_isolation()
        is_undecided = egress.decision is None and ingress.decision is None
        return cls.of(egress, ingress, Reason.SAME_ADDRESS if is_undecided else None)

    @property
    def direction(self) -> Direction | None:
        """The direction that denies (egress first), or None when the flow is accepted."""
        if self.verdict is Verdict.ACCEPT:
            return None
        return Direction.EGRESS if self.egress.denies else Direction.INGRESS

    @property
    def denial(self) -> Decision | None:
        """The decision that denies, or None when the flow is accepted."""
        match self.direction:
            case None:
                return None
            case Direction.EGRESS:
                return self.egress.decision
            case Direction.INGRESS:
                return self.ingress.decision

    @property
    def policy(self) -> str | None:
        """The policy whose rule denies, or the first that isolates in the denying direction; None when the flow is accepted."""
        denial = self.denial
        if denial is None:
            return None
        return denial.policies[0] if isinstance(denial, Isolation) else denial.policy


class Evaluator(Protocol):
    """Evaluates flows between addresses.

    A pod that connects to its own address never leaves its network namespace, so policies do not apply. If it connects to the address of
    a Service that leads back to it, the node sees equal addresses; the Admin and Baseline tiers apply then, and no NetworkPolicy cuts the
    pod from itself. `via_service` distinguishes the two and means nothing for two different addresses.
    """

    def explain(
        self, source: AddressKey, destination: AddressKey, protocol: int, port: int, *, via_service: bool = False
    ) -> Explanation:
        """Evaluate a flow. `protocol`: IANA number; `port`: destination port, 0 unless TCP, UDP or SCTP."""
        ...
