"""Messages between pool, supervisor and workers. `netpolq.ipc.channel` says which process sends which."""

from typing import NamedTuple

from netpolq.enums import Verdict

MAX_CHANGED = 1024
"""Maximum number of changed addresses in a `Publish`. With more, it means that all addresses changed."""

MAX_UNREAD = 4
"""Maximum number of snapshots sent to a process before it acknowledges one.

At 50 a second that covers a pause of 80 ms; in a large cluster it is 26 MiB."""

MAX_HINTS = 256
"""Maximum number of hints in one message."""

MAX_RESOLVERS = 256
"""Maximum number of addresses in a `Resolvers`."""

MAX_ANSWER_ADDRESSES = 512
"""Maximum number of addresses in an `Answer`."""

EVERY_PORT = 0
"""Port value of a hint for all ports. Port 0 itself is reserved (RFC 6335 section 6) and never hinted."""


class Publish(NamedTuple):
    """A new snapshot. `changed`: 16-byte keys of addresses whose flows this version may evaluate differently than the previous
    one (this version minus 1). None: all addresses. A reader whose version is not the previous one must treat it as None.
    """

    version: int
    changed: tuple[bytes, ...] | None


class Serve(NamedTuple):
    """Assigns a slot to a standby worker. `inherited_packets`: evaluated in this slot by earlier workers.

    `suspect_orphans`: a packet that the previous worker had read may have crashed it.
    """

    slot: int
    inherited_packets: int
    suspect_orphans: bool


class Resolvers(NamedTuple):
    """The DNS servers whose answers count: at most `MAX_RESOLVERS` 16-byte address keys. Empty: no policy has domain names, and no
    process reads DNS messages.
    """

    addresses: tuple[bytes, ...]


class Answer(NamedTuple):
    """A DNS response that was read, and waits until its addresses are in force, or gets along without.

    `number`: rises with each answer, also when another process reads DNS messages; `pod`: address key of the pod that asked; `name`: what
    it asked for, in lower case, IDNA form, without the dot at its end. `addresses`: at most `MAX_ANSWER_ADDRESSES` address keys, each with
    its TTL in seconds.
    """

    number: int
    pod: bytes
    name: str
    addresses: tuple[tuple[bytes, int], ...]


class AnswersInForce(NamedTuple):
    """The addresses of all answers up to a number are in force, or refused for a bound."""

    number: int


class Drain(NamedTuple):
    """Tells a worker to evaluate the queued packets and exit. `successor_queue`: the waiting queue of the agent that takes over."""

    successor_queue: int | None = None


class Report(NamedTuple):
    """State of a worker. `acked_version`: the snapshot in use (0: none yet). `packets`: evaluated in this slot since the pool started.

    `pid` 0: the slot has no process at present. `restarts`: number of replacements in the slot; set by the pool. `held`: packets that wait
    for an unknown address; only in the waiting process, which has the slot after the workers.
    """

    slot: int
    pid: int
    queue_num: int
    acked_version: int
    packets: int
    restarts: int
    held: int = 0


class Refusal(NamedTuple):
    """A worker could not load a snapshot and keeps the previous one."""

    slot: int
    version: int
    message: str


class Welcome(NamedTuple):
    """First message to a supervisor. `version`: the newest snapshot the pool has (0: none); the next one must be higher."""

    version: int
    supervisor_restarts: int


class CachedVerdict(NamedTuple):
    """A decision in the kernel's verdict cache, or proposed for it.

    Addresses are 16-byte keys; `port`: destination port, all in original direction. `EVERY_PORT`, only with a drop: all ports of the
    protocol. `egress`, `ingress`: numbers of the decisions in the snapshots that have it in force; 0: no policy decides.
    """

    source: bytes
    destination: bytes
    port: int
    protocol: int
    verdict: Verdict
    egress: int = 0
    ingress: int = 0


class Hints(NamedTuple):
    """Decisions by the snapshot of this version, for the verdict cache in the kernel. `packed`: for `unpack_hints`."""

    version: int
    packed: bytes


class StandDown(NamedTuple):
    """The supervisor is about to change the ruleset: in a takeover, the other agent must stand down."""


class StoodDown(NamedTuple):
    """No other agent changes the ruleset."""


class RulesetInstalled(NamedTuple):
    """The ruleset is installed: in a takeover, the other agent may leave."""


class PeerGone(NamedTuple):
    """In a takeover, the other agent has left. It evaluated packets until now."""


class Failure(NamedTuple):
    """Why the supervisor ends: one line for the operator, cut to 1,024 bytes."""

    message: str


class Heartbeat(NamedTuple):
    """The event loop of a standby worker or the supervisor runs. `version`: the last snapshot received or sent."""

    version: int


class Logging(NamedTuple):
    """New log settings. `verbosity`: as in `--v`, 0 to 255; `denied`: whether denied packets are logged (`--log-denied`)."""

    verbosity: int
    denied: bool


class Counters(NamedTuple):
    """The counter memory of a worker; carries its descriptor."""

    metrics_file_id: int


class FlowMemory(NamedTuple):
    """The flow memory of the workers with a metrics file id. Its descriptor comes with the message. See `netpolq.ipc.flow_memory`."""

    metrics_file_id: int


class Taken(NamedTuple):
    """The pool has read a snapshot. `problem` not empty: the pool refused it, and everything must be published again."""

    version: int
    problem: str


Empty = StandDown | StoodDown | RulesetInstalled | PeerGone
"""Messages without fields."""

Message = (
    Publish
    | Serve
    | Drain
    | Report
    | Refusal
    | Welcome
    | Hints
    | Heartbeat
    | Counters
    | FlowMemory
    | Taken
    | Failure
    | Logging
    | Resolvers
    | Answer
    | AnswersInForce
    | Empty
)
