"""Faults between an API server and its client, each one a value to inject."""

from dataclasses import dataclass, replace
from http import HTTPStatus

from tests.support.apiserver.resources import Resource, Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The affected requests: of one kind of objects or all, of one verb or both; the next `times` requests, or (None) all."""

    resource: Resource | None = None
    verb: Verb | None = None
    times: int | None = 1

    def affects(self, resource: Resource | None, verb: Verb | None) -> bool:
        return (self.resource is None or self.resource == resource) and (self.verb is None or self.verb == verb)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAbruptly(Fault):
    """The server cuts the connection instead of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverAnswer(Fault):
    """The server accepts the request and sends nothing, until the client gives up or the server stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Fault):
    """A refusal. `reason`: of the Status; empty: plain text, as load balancers and the server's own overload protection answer."""

    code: int
    reason: str = ""
    message: str = "injected"
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Fault):
    """The body of a list or a watch arrives slowly."""

    bytes_per_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutBody(Fault):
    """The server cuts the connection after a number of bytes of the body, even within a line."""

    after_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFault(Fault):
    """A fault in the stream of a watch, after that many more lines. `inject` affects new watches, `strike` the open ones."""

    verb: Verb | None = Verb.WATCH
    after_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GoSilent(WatchFault):
    """The stream stays open, and no more data follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutLine(WatchFault):
    """After half of the next line the connection ends, or (`cleanly`) the answer, as behind a proxy."""

    cleanly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndStream(WatchFault):
    """The stream ends between two lines, as on the server's timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLine(WatchFault):
    """The server sends a line that is not an event. The stream continues."""

    line: bytes = b'}{"type": not json\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class SendError(WatchFault):
    """The server sends an ERROR event and ends the stream."""

    code: int = HTTPStatus.GONE
    reason: str = "Expired"
    message: str = "injected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(WatchFault):
    """The server sends the last events of the stream again, with their old versions; `backwards`: newest first."""

    last: int = 10
    backwards: bool = False


class FaultPlan:
    """The faults that are injected into future requests."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    @property
    def waiting(self) -> list[Fault]:
        """The faults that are left, each with its remaining number of times."""
        return list(self._waiting)

    def take(self, resource: Resource | None, verb: Verb | None) -> list[Fault]:
        """Remove and return the faults of this request. A fault that prevents an answer is returned alone."""
        matching = [fault for fault in self._waiting if fault.affects(resource, verb)]
        taken: list[Fault] = next(([fault] for fault in matching if isinstance(fault, _PREVENTS)), matching)
        for fault in taken:
            if fault.times is not None:
                index = self._waiting.index(fault)
                self._waiting[index : index + 1] = [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
        return taken


_PREVENTS = (CloseAbruptly, NeverAnswer, Answer)
