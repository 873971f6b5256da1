"""Channels between pool, supervisor and workers: messages, their encoding, the socket.

Carried by Unix SOCK_SEQPACKET socket pairs: one datagram is one message, and an empty one means that the peer process has ended. The
pool forwards `Publish` from the supervisor to every worker, and `Report`, `Refusal` and `Hints` from workers to the supervisor.

    supervisor → pool → worker   Publish (carries the descriptor of the sealed memfd)
    pool → worker                Serve, Drain
    worker → pool → supervisor   Report, Refusal, Hints
    standby worker → pool        Heartbeat
    supervisor → pool → worker   Logging
    DNS reader → pool → supervisor   Answer
    supervisor → pool → DNS reader   Resolvers, AnswersInForce
    supervisor → pool            Heartbeat, StandDown, RulesetInstalled, Failure
    pool → supervisor            Welcome, Counters and FlowMemory (carry the descriptor of a worker's memory), Taken, StoodDown, PeerGone

Messages that a stalled peer has not read stay in memory, each `Publish` with a whole snapshot. So a sender has at most `MAX_UNREAD`
unread snapshots in flight. The supervisor waits for `Taken`, the pool for `Report` or `Heartbeat`.

`messages` has the messages, `encoding` their bytes, `connection` the socket.
"""

from netpolq.ipc.channel.connection import Channel
from netpolq.ipc.channel.encoding import decode, encode, pack_hints, unpack_hints
from netpolq.ipc.channel.messages import (
    EVERY_PORT,
    MAX_ANSWER_ADDRESSES,
    MAX_CHANGED,
    MAX_HINTS,
    MAX_RESOLVERS,
    MAX_UNREAD,
    Answer,
    AnswersInForce,
    CachedVerdict,
    Counters,
    Drain,
    Failure,
    FlowMemory,
    Heartbeat,
    Hints,
    Logging,
    Message,
    PeerGone,
    Publish,
    Refusal,
    Report,
    Resolvers,
    RulesetInstalled,
    Serve,
    StandDown,
    StoodDown,
    Taken,
    Welcome,
)

__all__ = [
    "EVERY_PORT",
    "MAX_ANSWER_ADDRESSES",
    "MAX_CHANGED",
    "MAX_HINTS",
    "MAX_RESOLVERS",
    "MAX_UNREAD",
    "Answer",
    "AnswersInForce",
    "CachedVerdict",
    "Channel",
    "Counters",
    "Drain",
    "Failure",
    "FlowMemory",
    "Heartbeat",
    "Hints",
    "Logging",
    "Message",
    "PeerGone",
    "Publish",
    "Refusal",
    "Report",
    "Resolvers",
    "RulesetInstalled",
    "Serve",
    "StandDown",
    "StoodDown",
    "Taken",
    "Welcome",
    "decode",
    "encode",
    "pack_hints",
    "unpack_hints",
]
