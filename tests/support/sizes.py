"""Sizes of the property tests: full where what they guard has changed and in the nightly run, else a part (`.ci/guarded`)."""

import os

_WANTED = os.environ.get("NETPOLQ_TEST_SLOW")


def sized(full: int) -> int:
    """A number of seeds or examples: all of them, or a fifth and at least two where `make test` leaves out the full size."""
    return full if _WANTED is None or "property" in _WANTED.split() else max(full // 5, 2)
