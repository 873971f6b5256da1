"""The evaluator contract: the explanation that both the compiled evaluator and the reference evaluator return."""

from dataclasses import dataclass
from typing import Protocol

from netpolq.addresses import AddressKey
from netpolq.enums import Direction, Reason, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One direction of a flow. `isolated_by`: the policies (ns/name, sorted) that isolate the pod in this direction, empty if none does.

    `allowed_by`: the policy with the first rule that allows the flow (policies in ns/name order, rules in order), or None;
    `rule`: the 0-based index of that rule within the policy's list of this direction, or None.
    """

    isolated_by: tuple[str, ...] = ()
    allowed_by: str | None = None
    rule: int | None = None

    @property
    def denies(self) -> bool:
        return bool(self.isolated_by) and self.allowed_by is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A cluster-wide verdict and its reasons: egress of the source and ingress of the destination."""

    verdict: Verdict
    reason: Reason
    egress: Side
    ingress: Side

    @property
    def direction(self) -> Direction | None:
        """The direction that denies (egress first), or None when the flow is accepted."""
        if self.verdict is Verdict.ACCEPT:
            return None
        return Direction.EGRESS if self.egress.denies else Direction.INGRESS

    @property
    def policy(self) -> str | None:
        """The first policy, by ns/name, that isolates in the denying direction, or None when the flow is accepted."""
        if self.direction is None:
            return None
        return (self.egress if self.direction is Direction.EGRESS else self.ingress).isolated_by[0]


class Evaluator(Protocol):
    """Evaluates flows between addresses."""

    def explain(self, source: AddressKey, destination: AddressKey, protocol: int, port: int) -> Explanation:
        """Evaluate a flow. `protocol`: IANA number; `port`: destination port, 0 unless TCP, UDP or SCTP."""
        ...
