"""Updates of the source on their way into the store."""

import logging

from netpolq import logs
from netpolq.model import Update
from netpolq.store import Store
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.learned_names import LearnedNames
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rejection_log import log_rejections
from netpolq.supervisor.rollout_events import Noticed

log = logging.getLogger("supervisor")


class StoreIntake:
    """Applies updates to the store, logs their rejections, and tells the rollout of changes. `changes`: for the log. `names`: must know
    the addresses of pods and nodes.
    """

    def __init__(self, store: Store, changes: Changes, progress: Progress, names: LearnedNames) -> None:
        self._store = store
        self._changes = changes
        self._progress = progress
        self._names = names

    def deliver(self, update: Update) -> None:
        """Apply an update."""
        log_rejections(self._store.rejections, update.rejections)
        if log.isEnabledFor(logs.DETAIL):
            self._changes.note(update, self._store)
        log.debug("update of the source: %d upserted, %d deleted", len(update.upserted), len(update.deleted))
        self._names.note(update)
        if self._store.apply(update):
            self._progress.send(Noticed(update.observed_ns))
