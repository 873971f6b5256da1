"""The verdict that `--expect` names, for tests of policies."""

from enum import StrEnum

from netpolq.enums import Verdict
from netpolq.policy.evaluator import Explanation


class Expected(StrEnum):
    """What a flow ought to be: allowed or denied."""

    ALLOW = "allow"
    DENY = "deny"

    def is_met_by(self, explanation: Explanation) -> bool:
        """Whether the verdict is the expected one."""
        return (explanation.verdict is Verdict.ACCEPT) == (self is Expected.ALLOW)
