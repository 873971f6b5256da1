"""The status document: what `netpolq status` shows, as it travels over the Unix socket in the run directory.

The supervisor encodes a `Status` and serves it as JSON at GET /status; the client side is here. Nothing is computed here.
"""

import http.client
import socket

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from netpolq.errors import NetpolqError, PrivilegeError
from netpolq.ipc.run_dir import STATUS_SOCKET
from netpolq.logs import one_line
from netpolq.model import Rejection

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker slot. `pid` 0: no process at the moment. `acked_version` 0: no snapshot yet. `packets`: judged since the pool started."""

    slot: int
    pid: int
    queue_num: int
    acked_version: int
    packets: int
    restarts: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """Where the objects come from. `kind`: folder or cluster. `objects`: keys namespaces, pods, policies.

    `age_s`: since what is known was last known to be the present state, None before. `problems`: what keeps the source from knowing.
    `ignored`: number of objects of each kind that is not used.
    """

    kind: str
    location: str
    synced: bool
    age_s: float | None
    problems: list[str]
    objects: dict[str, int]
    ignored: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataplaneStatus:
    """The ruleset. `form`: native or compat. `queues`: `first:last`. `isolated_*`: local addresses in the sets of a direction.

    `hold`: what holds, or ought to hold, the node's pods until policies are in force; None afterwards.
    """

    form: str
    queues: str
    fail_open: bool
    isolated_ingress: int
    isolated_egress: int
    unjudged_packets: int
    hold: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictCacheStatus:
    """Decisions kept in the kernel. `entries`: now; `size`: at most; `hits`: first packets that needed no worker."""

    enabled: bool
    entries: int
    size: int
    ttl_s: int
    hits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StrictModeStatus:
    """Established connections. `done_version`: a version by which all have been judged; `examined`: how many were judged again so far;
    `denied`: how many of them are denied since.
    """

    enabled: bool
    done_version: int
    examined: int
    denied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole document. `node`: the name by which pods are local.

    `snapshot_version`: the newest published. `in_force_version`: the newest by which every worker judges and whose isolated pods are
    those in the kernel. `run_dir_problem`: what the run directory lacks, None when all is well.
    `programming_latency_s`: from the notice of the last change that came into force until then; None before.
    """

    version: str
    node: str
    snapshot_version: int
    in_force_version: int
    ready: bool
    not_ready_reasons: list[str]
    workers: list[WorkerStatus]
    source: SourceStatus
    rejected: list[Rejection]
    dataplane: DataplaneStatus
    verdict_cache: VerdictCacheStatus
    strict_mode: StrictModeStatus
    programming_latency_s: float | None
    supervisor_restarts: int
    run_dir_problem: str | None


def encode(status: Status) -> bytes:
    """The document as JSON."""
    return orjson.dumps(status)


def decode(data: bytes) -> Status:
    """The document in some bytes. Raises `ValueError` if its shape is not the one of this version; the types of numbers are trusted."""
    try:
        document = orjson.loads(data)
        return Status(
            **{
                **document,
                "workers": [WorkerStatus(**worker) for worker in document["workers"]],
                "source": SourceStatus(**document["source"]),
                "rejected": [_rejection(rejection) for rejection in document["rejected"]],
                "dataplane": DataplaneStatus(**document["dataplane"]),
                "verdict_cache": VerdictCacheStatus(**document["verdict_cache"]),
                "strict_mode": StrictModeStatus(**document["strict_mode"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a status document: {error}") from error


def _rejection(fields: dict[str, Any]) -> Rejection:
    # JSON has lists only; an agent of before has none here.
    return Rejection(**{**fields, "further": tuple(fields.get("further", ()))})


class NoAgentError(NetpolqError):
    """Nothing answers on the status socket."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


def ask(run_dir: Path, method: str, path_of_url: str, text: str = "") -> bytes:
    """What the agent that has this run directory answers.

    Raises `NetpolqError` naming the socket if there is no answer within seconds, or not the one that was asked for: `PrivilegeError` for
    another user than root, `NoAgentError` where nothing listens.
    """
    path = run_dir / STATUS_SOCKET
    connection = _UnixConnection(path)
    try:
        connection.request(method, path_of_url, body=text or None)
        response = connection.getresponse()
        body = response.read()
    except PermissionError as error:
        raise _not_root(path) from error
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise NoAgentError(f"no agent answers on {str(path)!r}: {error.strerror}; is one running with this --run-dir?") from error
    except TimeoutError as error:
        raise NetpolqError(f"the agent on {str(path)!r} does not answer within {_TIMEOUT_S:.0f} s") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NetpolqError(f"no agent answers on {str(path)!r}: {reason}; is one running with this --run-dir?") from error
    finally:
        connection.close()
    if response.status == http.client.FORBIDDEN:
        raise _not_root(path)
    if response.status != http.client.OK:
        raise NetpolqError(
            f"the agent on {str(path)!r} answered {response.status}: {one_line(body[:200].decode(errors='replace'))}"
        )
    return body


def fetch(run_dir: Path) -> Status:
    """The status of the agent that has this run directory. Raises `NetpolqError`; see `ask`."""
    path = run_dir / STATUS_SOCKET
    body = ask(run_dir, "GET", "/status")
    try:
        return decode(body)
    except ValueError as error:
        raise NetpolqError(f"the answer on {str(path)!r} cannot be read: {error}; is the agent of another version?") from error


def _not_root(path: Path) -> PrivilegeError:
    return PrivilegeError(f"the status on {str(path)!r} is for root and the agent's own user: run as root")


def render_json(status: Status) -> str:
    """The document for a person or a program to read, without the last line end."""
    return orjson.dumps(status, option=orjson.OPT_INDENT_2).decode()


def render_text(status: Status) -> str:
    """A page for a terminal, without the last line end. What came from manifests is made printable first."""
    return "\n".join(one_line(line) for line in _lines(status))


def _lines(status: Status) -> Iterator[str]:
    source, dataplane = status.source, status.dataplane
    state = "ready" if status.ready else f"not ready: {'; '.join(status.not_ready_reasons) or 'no reason given'}"
    ignored = f"; ignored: {_counts(source.ignored)}" if source.ignored else ""
    age = "never heard" if source.age_s is None else f"heard {_duration(source.age_s)} ago"
    yield from _columns(
        [
            (f"netpolq {status.version}", state),
            ("node", status.node),
            ("snapshot", _snapshot(status)),
            ("source", f"{source.kind} {source.location}, {'synced' if source.synced else 'not synced'}, {age}"),
            *(("source problem", problem) for problem in source.problems),
            ("objects", _counts(source.objects) + ignored),
            ("data plane", f"{dataplane.form}, queues {dataplane.queues}, fail-{'open' if dataplane.fail_open else 'closed'}"),
            ("isolated addresses", f"{dataplane.isolated_ingress} ingress, {dataplane.isolated_egress} egress"),
            *((("hold", dataplane.hold),) if dataplane.hold is not None else ()),
            ("verdict cache", _verdict_cache(status.verdict_cache)),
            ("strict mode", _strict_mode(status.strict_mode)),
            ("unjudged packets", f"{dataplane.unjudged_packets:,}"),
            ("supervisor restarts", str(status.supervisor_restarts)),
            *((("run directory", status.run_dir_problem),) if status.run_dir_problem is not None else ()),
        ],
        align="<<",
    )
    yield ""
    header = ("WORKER", "PID", "QUEUE", "SNAPSHOT", "PACKETS", "RESTARTS", "MEMORY")
    rows = [_worker_row(worker, status.snapshot_version) for worker in status.workers]
    yield from _columns([header, *rows], align=">>>>>>>")
    if status.rejected:
        yield ""
        yield f"rejected ({len(status.rejected)})"
        for rejection in status.rejected:
            document = f"document {rejection.document}" if rejection.document else ""
            yield "  " + "  ".join(part for part in (rejection.origin, document, rejection.key, rejection.field) if part)
            *before, last = rejection.message, *rejection.further
            yield from (f"      {text}" for text in before)
            yield f"      {last}; {rejection.consequence}"


def _snapshot(status: Status) -> str:
    """The newest snapshot, and what is in force instead where that is another one."""
    newest, in_force, latency = status.snapshot_version, status.in_force_version, status.programming_latency_s
    if not newest:
        return f"none published yet; in force: {_judged_by(status)}"
    if in_force >= newest:
        return f"version {newest}, in force everywhere" + ("" if latency is None else f" after {latency * 1000:.1f} ms")
    return f"version {newest} is published and not yet in force; in force: {f'version {in_force}' if in_force else _judged_by(status)}"


def _judged_by(status: Status) -> str:
    """By what workers judge while no version is known to be in force: one that an earlier run or supervisor left, or nothing."""
    versions = sorted({worker.acked_version for worker in status.workers if worker.acked_version})
    if not versions:
        return "nothing" if status.dataplane.fail_open else "nothing, so that new connections of isolated pods are dropped"
    return f"what workers have of before, version {' and '.join(map(str, versions))}"


def _worker_row(worker: WorkerStatus, newest: int) -> tuple[str, ...]:
    return (
        str(worker.slot),
        str(worker.pid) if worker.pid else "none",
        str(worker.queue_num),
        f"{worker.acked_version}{'' if worker.acked_version >= newest else ' (old)'}",
        f"{worker.packets:,}",
        str(worker.restarts),
        f"{worker.rss_bytes / 2**20:.1f} MiB",
    )


def _verdict_cache(cache: VerdictCacheStatus) -> str:
    if not cache.enabled:
        return "off: every first packet is judged by a worker"
    return f"{cache.entries:,} of {cache.size:,} decisions in the kernel, for {cache.ttl_s} s each; {cache.hits:,} hits"


def _strict_mode(strict: StrictModeStatus) -> str:
    if not strict.enabled:
        return "off: established connections go on as they were accepted"
    return f"judged by version {strict.done_version or 'none'}; {strict.denied:,} of {strict.examined:,} established were denied"


def _columns(rows: Sequence[Sequence[str]], *, align: str) -> Iterator[str]:
    """Rows of equal length as lines whose cells begin (`<`) or end (`>`) at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes, hours and days, rounded down."""
    for unit_s, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{int(seconds // unit_s)} {name}"
    return f"{seconds:.1f} s"
