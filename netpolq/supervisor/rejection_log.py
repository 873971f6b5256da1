"""Log lines about rejected objects: one when a rejection is new, one when it has ended."""

import logging

from collections.abc import Iterable

from netpolq.model import Rejection

log = logging.getLogger("enforcer")


def log_rejections(before: Iterable[Rejection], now: Iterable[Rejection]) -> None:
    """Log new rejections, and those that have ended.

    A rejection that another one of the same object replaces has not ended.
    """
    known, present = set(before), set(now)
    for rejection in now:
        if rejection not in known:
            log.error("rejected: %s", rejection)
    rejected = {(rejection.origin, rejection.document, rejection.key) for rejection in present}
    for rejection in before:
        if rejection not in present and (rejection.origin, rejection.document, rejection.key) not in rejected:
            log.info("no longer rejected: %s", rejection)
