"""Events that the supervisor's parts send to `netpolq.supervisor.rollout`, and the values that it gives them."""

from collections.abc import Collection, Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """At the start of the supervisor, workers have this snapshot of an earlier supervisor."""

    version: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """The store has changed, or must be published again. `observed_ns`: time at which the source saw the change.

    `is_awaited`: a packet waits for the change, so it is published as soon as possible.
    """

    observed_ns: int
    is_awaited: bool = False


@dataclass(frozen=True, slots=True)
class CompileStarted:
    """The compiler takes all changes that were noticed so far."""


@dataclass(frozen=True, slots=True)
class Published:
    """The compiled changes were sent to the pool, or need no new version: `version` is then that of the last snapshot.

    `changed`: addresses whose connections the version may evaluate differently; None: all. `summary`: the changed objects, for the log.
    `renamed`: those among them whose established connections it does not deny; see `netpolq.policy.compiler.Compiler`.
    """

    version: int
    changed: Collection[bytes] | None
    summary: str = ""
    renamed: Set[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Refused:
    """The pool has refused a snapshot, or it could not be sent: the next one must be complete."""


@dataclass(frozen=True, slots=True)
class WorkerReported:
    """The worker of a slot uses this version; 0: the slot has no worker, or the worker no snapshot."""

    slot: int
    version: int


@dataclass(frozen=True, slots=True)
class SetsInstalled:
    """The kernel has the sets of isolated pods of this version."""

    version: int


@dataclass(frozen=True, slots=True)
class RulesetReinstalled:
    """The whole ruleset was installed, for the first time or again. Until then the kernel may have accepted any connection."""


@dataclass(frozen=True, slots=True)
class CacheClean:
    """The verdict cache has no decision that differs from this version. `doubts`: `Rollout.cache_doubts` when the pass began."""

    version: int
    doubts: int


@dataclass(frozen=True, slots=True)
class CacheLost:
    """The content of the verdict cache is uncertain, because a write has failed."""


@dataclass(frozen=True, slots=True)
class OtherAgentLeft:
    """In a takeover, the other agent has left. Until then it accepted connections by its own snapshot."""


@dataclass(frozen=True, slots=True)
class StrictPassDone:
    """Strict mode has evaluated the connections of `to_examine`. `doubts`: `Rollout.connection_doubts` when the pass began."""

    version: int
    doubts: int


Event = (
    Kept
    | Noticed
    | CompileStarted
    | Published
    | Refused
    | WorkerReported
    | SetsInstalled
    | RulesetReinstalled
    | CacheClean
    | CacheLost
    | OtherAgentLeft
    | StrictPassDone
)


@dataclass(frozen=True, slots=True)
class InForce:
    """Effect: a version has come into force. `latency_s`: since the notice of its oldest change; None for a kept snapshot."""

    version: int
    latency_s: float | None
    summary: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What a pass over the verdict cache or the established connections must cover. `is_doubtful`: everything, whatever is known.

    `version`: the newest version that the pass is about. `changed`: addresses that it may decide differently; None: all.
    """

    version: int
    changed: frozenset[bytes] | None
    doubts: int
    is_doubtful: bool
