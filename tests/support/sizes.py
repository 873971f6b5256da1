"""Sizes of tests of many cases: full where what they guard has changed and in the nightly run, else a part (`.ci/guarded`)."""

import os

_WANTED = os.environ.get("NETPOLQ_TEST_SLOW")


def is_full(guard: str) -> bool:
    """Whether the tests of this guard have their full size."""
    return _WANTED is None or guard in _WANTED.split()


def sized(full: int, guard: str = "property") -> int:
    """A number of cases: all of them, or a tenth and at least one where `make test` leaves out the full size, which this guard names."""
    return full if is_full(guard) else max(full // 10, 1)
