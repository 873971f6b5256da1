"""State machine of the rollout: carries each published version from the publish until it is in force. Pure.

Theory of operation. A change is noticed, compiled, and published as a version. A version is **in force** when every worker uses it or a
newer one, the kernel has the sets of its isolated pods, and the verdict cache in the kernel has no decision that differs from it. The
cache can be cleaned for a version when all workers use it. The sets do not wait for the workers, so either may be first:

                 all workers use it                cache is clean
    PUBLISHED ──────────────────────► ACKNOWLEDGED ──────────────► CLEAN
        │                                  │                         │
        │ sets installed                   │ sets installed          │ sets installed
        ▼                                  ▼                         ▼
    INSTALLED ──────────────────────► APPLIED ───────────────────► IN_FORCE ──────────────────► DONE
                 all workers use it                cache is clean             strict pass done

Steps back exist only to the left of IN_FORCE. A worker that ends, or restarts with an older version, takes the acknowledgement back, and
with it the clean cache. A ruleset that is installed again, or a failed write to the maps, makes the cache uncertain until it is emptied.
The version in force never decreases: a replaced worker starts with the newest snapshot, a reinstalled ruleset has the newest sets.

New connections meet a version already when it is CLEAN: the sets only decide whether policies apply to a pod at all (`is_in_use`).

The parts of the supervisor send events (`netpolq.supervisor.rollout_events`) and read derived values: `noticed_ns` (the compiler has
work), `next_is_complete` (for the publisher), `to_clean` (for the verdict cache), `to_examine` (for strict mode). The only effect is
`InForce`. Time is an argument, in nanoseconds of the monotonic clock.

`cache_doubts` and `connection_doubts` count the events after which the whole cache, or the acceptance of all established connections, is
uncertain. A pass over all of them names the count at its begin, so it does not remove a doubt that arose while it ran.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import assert_never

from netpolq.supervisor.rollout_events import (
    CacheClean,
    CacheLost,
    CompileStarted,
    Event,
    InForce,
    Kept,
    Noticed,
    OtherAgentLeft,
    Published,
    Refused,
    RulesetReinstalled,
    Scope,
    SetsInstalled,
    StrictPassDone,
    WorkerReported,
)

MAX_WAITING = 1024
"""Maximum number of versions that wait. With more, the newest two become one: hours without a working kernel must not fill the memory."""

MAX_ADDRESSES = 4096
"""Maximum number of changed addresses in a `Scope`; with more, it covers all."""


class Step(Enum):
    """How far a version is. The value is what it waits for."""

    PUBLISHED = "workers and the sets of isolated pods"
    ACKNOWLEDGED = "the verdict cache and the sets of isolated pods"
    CLEAN = "the sets of isolated pods"
    INSTALLED = "workers"
    APPLIED = "the verdict cache"
    IN_FORCE = "the evaluation of established connections"
    DONE = "nothing"


class Fact(IntEnum):
    """What an event means for one version. The value is the column of `TRANSITIONS`."""

    HAS_WORKERS = 0
    LACKS_WORKERS = 1
    HAS_SETS = 2
    CACHE_CLEAN = 3
    CACHE_LOST = 4
    EXAMINED = 5


# fmt: off
TRANSITIONS: dict[Step, tuple[Step, ...]] = {
    #                   HAS_WORKERS        LACKS_WORKERS   HAS_SETS        CACHE_CLEAN     CACHE_LOST         EXAMINED
    Step.PUBLISHED:    (Step.ACKNOWLEDGED, Step.PUBLISHED, Step.INSTALLED, Step.PUBLISHED, Step.PUBLISHED,    Step.PUBLISHED),
    Step.ACKNOWLEDGED: (Step.ACKNOWLEDGED, Step.PUBLISHED, Step.APPLIED,   Step.CLEAN,     Step.ACKNOWLEDGED, Step.ACKNOWLEDGED),
    Step.CLEAN:        (Step.CLEAN,        Step.PUBLISHED, Step.IN_FORCE,  Step.CLEAN,     Step.ACKNOWLEDGED, Step.CLEAN),
    Step.INSTALLED:    (Step.APPLIED,      Step.INSTALLED, Step.INSTALLED, Step.INSTALLED, Step.INSTALLED,    Step.INSTALLED),
    Step.APPLIED:      (Step.APPLIED,      Step.INSTALLED, Step.APPLIED,   Step.IN_FORCE,  Step.APPLIED,      Step.APPLIED),
    Step.IN_FORCE:     (Step.IN_FORCE,     Step.IN_FORCE,  Step.IN_FORCE,  Step.IN_FORCE,  Step.IN_FORCE,     Step.DONE),
    Step.DONE:         (Step.DONE,         Step.DONE,      Step.DONE,      Step.DONE,      Step.DONE,         Step.DONE),
}
# fmt: on
"""The next step of a version, by step and fact. Entry to `IN_FORCE` has the effect `InForce`."""

_NOT_CLEAN = {Step.ACKNOWLEDGED, Step.APPLIED}
_REACHED = {Step.IN_FORCE, Step.DONE}
_IN_USE = {Step.CLEAN, *_REACHED}


@dataclass(frozen=True, slots=True)
class Publication:
    """A version that waits. `noticed_ns`: time of its oldest change; None for a kept snapshot.

    `changed`: the addresses whose decisions it may change, `examined`: those whose established connections it may deny; None: all.
    """

    version: int
    noticed_ns: int | None
    changed: frozenset[bytes] | None
    examined: frozenset[bytes] | None
    summary: str
    step: Step = Step.PUBLISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """All versions that are on their way. A value: `after` returns the next one.

    `version`: the newest one. `workers`: the version of each slot; equality ignores them, because only `acknowledged_version`, the one
    that every worker has at least, matters. `noticed_ns`: time of the oldest change that waits for the compiler; `compiling_ns`: of
    those that it compiles. `is_awaited`: a packet waits for one of the former. `examined_version`: a version by which all established
    connections were evaluated.
    """

    workers: tuple[int, ...] = field(compare=False)
    has_verdict_cache: bool
    has_strict_mode: bool
    version: int = 0
    acknowledged_version: int = 0
    in_force_version: int = 0
    examined_version: int = 0
    last_latency_s: float | None = None
    next_is_complete: bool = True
    noticed_ns: int | None = None
    compiling_ns: int | None = None
    is_awaited: bool = False
    waiting: tuple[Publication, ...] = ()
    is_installed: bool = False
    cache_doubts: int = 1  # an earlier agent may have left decisions
    cleaned_doubts: int = 0
    connection_doubts: int = 0
    examined_doubts: int = 0

    # --- derived values -----------------------------------------------------------------------------------------------------------

    def behind_s(self, now_ns: int) -> float:
        """Seconds since the notice of the oldest change that is not in force; 0 if all are."""
        times = (self.noticed_ns, self.compiling_ns, *(one.noticed_ns for one in self.waiting if one.step not in _REACHED))
        return max((now_ns - noticed_ns for noticed_ns in times if noticed_ns is not None), default=0) / 1e9

    def is_in_use(self, noticed_ns: int) -> bool:
        """Whether new connections of isolated pods meet all changes that were noticed until then: every worker uses them, and the verdict
        cache has no older decision.
        """
        times = (self.noticed_ns, self.compiling_ns, *(one.noticed_ns for one in self.waiting if one.step not in _IN_USE))
        return all(time_ns is None or time_ns > noticed_ns for time_ns in times)

    @property
    def used_version(self) -> int:
        """The version that every worker uses at least. One in force counts as used while a worker is replaced."""
        return max(self.acknowledged_version, self.in_force_version)

    @property
    def waits_for(self) -> str:
        """What the oldest change that is not in force waits for."""
        step = next((one.step for one in self.waiting if one.step not in _REACHED), None)
        if step is not None:
            return step.value
        return Step.DONE.value if self.noticed_ns is None and self.compiling_ns is None else "its publication"

    @property
    def to_clean(self) -> Scope | None:
        """What the verdict cache must remove now; None: nothing, or the kernel has no ruleset yet."""
        is_doubtful = self.cache_doubts > self.cleaned_doubts
        due = [one for one in self.waiting if one.step in _NOT_CLEAN]
        if not self.has_verdict_cache or not self.is_installed or not (is_doubtful or due):
            return None
        return Scope(self.used_version, _union(one.changed for one in due), self.cache_doubts, is_doubtful)

    @property
    def to_examine(self) -> Scope | None:
        """The established connections that strict mode must evaluate now; None: none."""
        is_doubtful = self.connection_doubts > self.examined_doubts
        due = [one for one in self.waiting if one.step is Step.IN_FORCE]
        if not self.has_strict_mode or not self.in_force_version or not (is_doubtful or due):
            return None
        examined = None if is_doubtful else _union(one.examined for one in due)
        return Scope(self.in_force_version, examined, self.connection_doubts, is_doubtful)

    # --- events -------------------------------------------------------------------------------------------------------------------

    def after(self, event: Event, now_ns: int) -> tuple["Rollout", tuple[InForce, ...]]:
        """The rollout after an event, and the versions that it brings into force. Raises `ValueError` for an unknown slot."""
        match event:
            case Noticed(observed_ns, is_awaited):
                noticed_ns = _oldest(self.noticed_ns, observed_ns)
                return replace(self, noticed_ns=noticed_ns, is_awaited=self.is_awaited or is_awaited), ()
            case CompileStarted():
                compiling_ns = _oldest(self.noticed_ns, self.compiling_ns)
                return replace(self, noticed_ns=None, compiling_ns=compiling_ns, is_awaited=False), ()
            case Refused():
                noticed_ns = _oldest(self.noticed_ns, self.compiling_ns)
                return replace(self, noticed_ns=noticed_ns, compiling_ns=None, next_is_complete=True), ()
            case Kept(version):
                kept = _with(self, Publication(version, None, frozenset(), frozenset(), ""))
                return _told(kept, _about_workers(kept), now_ns)
            case Published(version, changed, summary, renamed):
                addresses = None if changed is None else frozenset(changed)
                deniable = None if addresses is None else addresses - renamed
                published = _with(self, Publication(version, self.compiling_ns, addresses, deniable, summary))
                return _told(replace(published, compiling_ns=None, next_is_complete=False), _about_workers(published), now_ns)
            case WorkerReported(slot, version):
                reported = _reported(self, slot, version)
                if reported.acknowledged_version == self.acknowledged_version:
                    return reported, ()  # each worker reports four times a second, and many versions may wait
                return _told(reported, _about_workers(reported), now_ns)
            case SetsInstalled(version):
                return _told(self, _up_to(version, Fact.HAS_SETS), now_ns)
            case RulesetReinstalled():
                installed = replace(self, is_installed=True, connection_doubts=self.connection_doubts + 1)
                return installed.after(CacheLost(), now_ns)
            case CacheLost():
                return _told(replace(self, cache_doubts=self.cache_doubts + 1), lambda _one: Fact.CACHE_LOST, now_ns)
            case CacheClean(version, doubts):
                if doubts < self.cache_doubts:
                    return self, ()
                return _told(replace(self, cleaned_doubts=doubts), _up_to(version, Fact.CACHE_CLEAN), now_ns)
            case OtherAgentLeft():
                return replace(self, connection_doubts=self.connection_doubts + 1), ()
            case StrictPassDone(version, doubts):
                examined = replace(self, examined_version=version, examined_doubts=doubts)
                return _told(examined, _up_to(version, Fact.EXAMINED), now_ns)
        assert_never(event)


_FactOf = Callable[[Publication], Fact | None]


def _about_workers(rollout: Rollout) -> _FactOf:
    return lambda one: Fact.HAS_WORKERS if one.version <= rollout.used_version else Fact.LACKS_WORKERS


def _up_to(version: int, fact: Fact) -> _FactOf:
    return lambda one: fact if one.version <= version else None


def _told(rollout: Rollout, fact_of: _FactOf, now_ns: int) -> tuple[Rollout, tuple[InForce, ...]]:
    """The rollout after a fact about each version that waits, and what has come into force."""
    waiting, entered = [], []
    for one in rollout.waiting:
        fact = fact_of(one)
        step = one.step if fact is None else TRANSITIONS[one.step][fact]
        if not rollout.has_verdict_cache:
            step = TRANSITIONS[step][Fact.CACHE_CLEAN]
        if step is Step.IN_FORCE and one.step is not Step.IN_FORCE:
            entered.append(InForce(one.version, None if one.noticed_ns is None else (now_ns - one.noticed_ns) / 1e9, one.summary))
        if not rollout.has_strict_mode:
            step = TRANSITIONS[step][Fact.EXAMINED]
        if step is not Step.DONE:
            waiting.append(one if step is one.step else replace(one, step=step))
    in_force_version = max([rollout.in_force_version, *(effect.version for effect in entered)])
    latencies_s = [rollout.last_latency_s, *(effect.latency_s for effect in entered if effect.latency_s is not None)]
    told = replace(rollout, waiting=tuple(waiting), in_force_version=in_force_version, last_latency_s=latencies_s[-1])
    return told, tuple(entered)


def _with(rollout: Rollout, publication: Publication) -> Rollout:
    """The rollout and one more version."""
    waiting = rollout.waiting
    if len(waiting) >= MAX_WAITING:
        waiting, last = waiting[:-1], waiting[-1]
        noticed_ns = _oldest(last.noticed_ns, publication.noticed_ns)
        changed, examined = _union((last.changed, publication.changed)), _union((last.examined, publication.examined))
        publication = replace(publication, noticed_ns=noticed_ns, changed=changed, examined=examined)
    return replace(rollout, version=publication.version, waiting=(*waiting, publication))


def _reported(rollout: Rollout, slot: int, version: int) -> Rollout:
    if not 0 <= slot < len(rollout.workers):
        raise ValueError(f"slot {slot} of {len(rollout.workers)}")
    workers = (*rollout.workers[:slot], version, *rollout.workers[slot + 1 :])
    return replace(rollout, workers=workers, acknowledged_version=min(workers))


def _oldest(one_ns: int | None, other_ns: int | None) -> int | None:
    return min((time_ns for time_ns in (one_ns, other_ns) if time_ns is not None), default=None)


def _union(parts: Iterable[frozenset[bytes] | None]) -> frozenset[bytes] | None:
    """The addresses of all parts; None: all, or too many."""
    union: set[bytes] = set()
    for part in parts:
        if part is None or len(union) + len(part) > MAX_ADDRESSES:
            return None
        union |= part
    return frozenset(union)
