"""The verdict that `--expect` requires, for tests of policies."""

from enum import StrEnum

from netpolq.enums import Verdict
from netpolq.policy.evaluator import Explanation


class Expected(StrEnum):
    """The expected verdict of a flow."""

    ALLOW = "allow"
    DENY = "deny"

    def is_met_by(self, explanation: Explanation) -> bool:
        """Whether the verdict of the explanation is the expected one."""
        return (explanation.verdict is Verdict.ACCEPT) == (self is Expected.ALLOW)
