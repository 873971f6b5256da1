"""The messages to the supervisor that must arrive: they are sent again until the supervisor has room for them."""

from collections import deque

from netpolq.ipc.channel import Answer, Taken, Welcome
from netpolq_worker.pool.supervisor_process import SupervisorProcess
from netpolq_worker.pool.workers import Workers

_MAX_ANSWERS = 1024
"""Answers of the DNS reader that wait for room. As many responses can wait for them, for a second each."""


class Outbox:
    """Sends the workers' memories, each once, the newest rejection of a snapshot, and the answers of the DNS reader in their order."""

    def __init__(self, supervisor: SupervisorProcess, workers: Workers) -> None:
        self._supervisor = supervisor
        self._workers = workers
        self._memories_sent = 0
        self._rejection: Taken | None = None
        self._answers: deque[Answer] = deque(maxlen=_MAX_ANSWERS)

    def greet(self) -> None:
        """Send the first messages to a supervisor that has just been started. It gets all memories again."""
        self._memories_sent, self._rejection = 0, None
        self._supervisor.send(Welcome(self._workers.snapshot.version, self._supervisor.child.restarts))
        for report in self._workers.reports():
            self._supervisor.send(report)

    def reject(self, rejection: Taken) -> None:
        """Send a rejection with the next `flush`."""
        self._rejection = rejection

    def answer(self, answer: Answer) -> None:
        """Send an answer now, or with the next `flush`."""
        self._answers.append(answer)
        self._send_answers()

    def _send_answers(self) -> None:
        while self._answers and self._supervisor.send(self._answers[0]):
            self._answers.popleft()

    def flush(self) -> None:
        """Send what is left. The pool calls this at each heartbeat of a worker, four times a second."""
        self._send_answers()
        for message, descriptor in self._workers.memories[self._memories_sent :]:
            if not self._supervisor.send(message, [descriptor]):
                return
            self._memories_sent += 1
        if self._rejection is not None and self._supervisor.send(self._rejection):
            self._rejection = None
