"""The rollout that the supervisor's parts share, for tests of a single part."""

from prometheus_client import CollectorRegistry

from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout import Rollout
from netpolq.supervisor.timings import Timings


def progress_of(workers: int = 1, *, has_verdict_cache: bool = True, has_strict_mode: bool = False) -> Progress:
    """Nothing is published yet."""
    rollout = Rollout(workers=(0,) * workers, has_verdict_cache=has_verdict_cache, has_strict_mode=has_strict_mode)
    return Progress(rollout, Timings(CollectorRegistry()))
