"""The log settings of a running agent: they change through SIGHUP and `netpolq loglevel`, while the workers go on."""

import logging

from dataclasses import replace

from netpolq.ipc.agent_settings import Settings
from netpolq.ipc.channel import Logging
from netpolq.logs import logs_packets, set_verbosity
from netpolq_worker.pool.dns_reader import DnsReaderProcess
from netpolq_worker.pool.supervisor_process import SupervisorProcess
from netpolq_worker.pool.workers import Workers

log = logging.getLogger("pool")


class LogSettings:
    """Applies log settings to the pool, the workers, the DNS reader and the next supervisor."""

    def __init__(self, workers: Workers, supervisor: SupervisorProcess, dns_reader: DnsReaderProcess) -> None:
        self._workers = workers
        self._supervisor = supervisor
        self._dns_reader = dns_reader
        self._next_supervisor: Settings | None = None

    def apply(self, wanted: Logging) -> None:
        """Set what the pool and all workers log from now on."""
        if wanted != self._workers.logging:
            log.info("log verbosity is %d, denied packets are%s logged", wanted.verbosity, "" if wanted.denied else " not")
            set_verbosity(wanted.verbosity)
            self._workers.set_logging(wanted)
            self._dns_reader.set_logging(wanted)

    def on_supervisor_change(self, wanted: Logging) -> None:
        """Apply a verbosity that the supervisor has received and set. Later supervisors start with it too."""
        before = self._workers.logging
        self.apply(wanted)
        settings = replace(self._supervisor.settings, verbosity=wanted.verbosity)
        if logs_packets(before.verbosity) != logs_packets(wanted.verbosity):
            # Pod names in the snapshot, and the verdict cache, depend on it.
            self._next_supervisor = settings
        else:
            self._supervisor.settings = settings

    def replace_supervisor(self) -> None:
        """Restart the supervisor if the last change needs it. Not while its messages are read: this closes its channel."""
        if self._next_supervisor is not None:
            self._supervisor.replace(self._next_supervisor)
            self._next_supervisor = None
