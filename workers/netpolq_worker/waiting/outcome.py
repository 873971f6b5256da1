"""What became of a packet that was held."""

from enum import StrEnum


class Outcome(StrEnum):
    """What became of a packet that was held. The value is a label of `netpolq_held_packets_total`.

    TIMED_OUT, DISPLACED, ENDED and ERROR have the verdict of the failure mode: its time is over, newer ones have taken its place, the
    agent ends, its evaluation failed. SUSPECT: its evaluation may have ended the process, and it was dropped. HANDED_OVER: to the agent
    that takes over.
    """

    ACCEPTED = "accepted"
    DENIED = "denied"
    TIMED_OUT = "timed-out"
    DISPLACED = "displaced"
    ENDED = "ended"
    ERROR = "error"
    SUSPECT = "suspect"
    HANDED_OVER = "handed-over"
