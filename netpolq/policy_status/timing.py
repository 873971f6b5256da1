"""Time limits of the election and of the writes, in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Time limits, in seconds.

    `lease_s`: others may take over when they have seen no change of the Lease for so long. `renew_s`: interval of renewals.
    `deadline_s`: without a renewal, the leader stops after so long. `request_s`: limit of one request, in which a last write may still
    run, so that `deadline_s` + `request_s` must be less than `lease_s`. `look_s`: mean interval in which a follower reads the Lease: a
    thousand agents ask 33 times a second, and the server answers from its cache. `release_s`: limit of the release on shutdown.
    `poll_s`: interval in which the leader compares reports with conditions. `write_interval_s`: minimum time between two writes.
    `confirm_s`: a write that no report shows after so long is repeated. `first_delay_s`, `max_delay_s`: back-off after a failure.
    `truce_s`: pause for a policy whose condition another writer keeps overwriting.
    """

    lease_s: float = 60.0
    renew_s: float = 15.0
    deadline_s: float = 40.0
    retry_s: float = 5.0
    request_s: float = 10.0
    look_s: float = 30.0
    release_s: float = 1.0
    poll_s: float = 1.0
    write_interval_s: float = 0.2
    confirm_s: float = 60.0
    first_delay_s: float = 1.0
    max_delay_s: float = 60.0
    truce_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.deadline_s + self.request_s < self.lease_s:
            raise ValueError("a leader that loses the server must stop before others may take over")
