"""Plan of the writes: which policy needs one, and when. Without I/O; time is an argument, in seconds of a monotonic clock.

A report that has not changed since a write says nothing about the write, because the watch delivers it later. Only a newer report that
still lacks the condition, or a long wait, leads to the next write.
"""

import logging

from collections.abc import Mapping
from dataclasses import dataclass

from netpolq.model import ObjectKey
from netpolq.policy_status.conditions import Condition, condition_of, is_current
from netpolq.policy_status.timing import Timing
from netpolq.sources.kubernetes.policy_report import CONDITION_TYPE, PolicyReport

MAX_WRITES = 5
"""Writes of one condition before a pause. Between a write and its report, other changes of the policy may be reported."""

log = logging.getLogger("policy-status")


@dataclass(slots=True, kw_only=True)
class _Entry:
    """A policy. `report`, `wanted`, `is_current`: as last seen. `basis`: the report before the last write, until `confirm_at`.

    `writes`: of the same condition. `failures`: in sequence. `not_before`: time of the next write.
    """

    report: PolicyReport
    wanted: Condition
    is_current: bool
    basis: PolicyReport | None = None
    confirm_at: float = 0.0
    writes: int = 0
    failures: int = 0
    not_before: float = 0.0

    def see(self, report: PolicyReport) -> None:
        """Take a newer report."""
        wanted = condition_of(report)
        if wanted != self.wanted or report.uid != self.report.uid:
            self.writes = self.failures = 0
            self.not_before = 0.0
        self.report, self.wanted, self.is_current = report, wanted, is_current(report, wanted)

    def is_due(self, now: float) -> bool:
        """Whether the condition is not what it should be, and no write is under way."""
        return not self.is_current and now >= self.not_before and (self.report is not self.basis or now >= self.confirm_at)


class WritePlan:
    """The policies and their writes. `forget` before a new term as the leader."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._entries: dict[ObjectKey, _Entry] = {}

    def forget(self) -> None:
        """Remove all that is known."""
        self._entries.clear()

    def next_write(self, reports: Mapping[ObjectKey, PolicyReport], now: float) -> tuple[ObjectKey, Condition] | None:
        """The first policy that needs a write now, and the condition to write; None if there is none."""
        for key in self._entries.keys() - reports.keys():
            del self._entries[key]
        for key, report in reports.items():
            entry = self._entries.get(key)
            if entry is None:
                wanted = condition_of(report)
                entry = self._entries[key] = _Entry(report=report, wanted=wanted, is_current=is_current(report, wanted))
            elif entry.report is not report:
                entry.see(report)
            if not entry.is_due(now):
                continue
            if entry.writes < MAX_WRITES:
                return key, entry.wanted
            entry.writes, entry.not_before = 0, now + self._timing.truce_s
            log.warning(
                "%s: another writer keeps overwriting the condition %s; the next write follows in %.0f s",
                key,
                CONDITION_TYPE,
                self._timing.truce_s,
            )
        return None

    def on_written(self, key: ObjectKey, now: float) -> None:
        """Note that the server has taken the write of `next_write`."""
        entry = self._entries[key]
        entry.writes += 1
        entry.failures = 0
        entry.basis, entry.confirm_at = entry.report, now + self._timing.confirm_s

    def on_refused(self, key: ObjectKey, now: float) -> None:
        """Note that the server refuses this write, for example because the policy is gone. The delay grows with each refusal."""
        entry = self._entries[key]
        entry.failures += 1
        entry.not_before = now + min(self._timing.first_delay_s * 2.0 ** min(entry.failures - 1, 10), self._timing.max_delay_s)
