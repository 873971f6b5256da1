"""The status document, and its JSON encoding.

The supervisor fills in a `Status` (`netpolq.supervisor.readiness`) and serves it at GET /status on the Unix socket in the run directory.
`netpolq.supervisor.status_client` fetches it, `netpolq.supervisor.status_report` renders it.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from netpolq.model import Rejection

STATUS_PATH = "/status"
METRICS_PATH = "/metrics"
SETTINGS_PATH = "/settings"
"""The settings document (`netpolq.ipc.settings_document`) of the running agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker slot. `pid` 0: no process at the moment. `acked_version` 0: no snapshot yet. `packets`: evaluated since the pool started."""

    slot: int
    pid: int
    queue_num: int
    acked_version: int
    packets: int
    restarts: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStatus:
    """The waiting process. `held`: packets that wait for an unknown address. The other fields are those of `WorkerStatus`."""

    pid: int
    queue_num: int
    acked_version: int
    held: int
    packets: int
    restarts: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """The source of the objects. `kind`: folder or cluster. `objects`: keys namespaces, pods, policies, cluster_policies,
    nodes; nodes are counted where a policy selects nodes.

    `age_s`: seconds since the last sync, None before the first. `problems`: why the source may be out of date. `ignored`: number of
    objects of each kind that is not used.
    """

    kind: str
    location: str
    synced: bool
    age_s: float | None
    problems: list[str]
    objects: dict[str, int]
    ignored: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CniResultsStatus:
    """The folder of CNI results. `folder_exists`: false while it is missing. `early_addresses`: of pods of this node whose addresses the
    API does not report yet. `unusable_files`: files that are no results, and `example`: one of them with the reason, or empty.
    `problems`: why results may be missing or late.
    """

    location: str
    folder_exists: bool
    early_addresses: int
    unusable_files: int
    example: str
    problems: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataplaneStatus:
    """The ruleset. `form`: native or compat. `queues`: `first:last`. `isolated_*`: local addresses in the sets of a direction.

    `hold`: state of the hold of the node's pods until policies are in force; None afterwards. `unjudged_packets`: packets without a
    verdict of a worker.
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
    """The verdict cache in the kernel. `entries`: present number; `size`: limit; `hits`: first packets that needed no worker."""

    enabled: bool
    entries: int
    size: int
    ttl_s: int
    hits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StrictModeStatus:
    """Strict mode. `done_version`: a version by which all established connections were evaluated; `examined`: connections evaluated
    again so far; `denied`: those of them that were denied.
    """

    enabled: bool
    done_version: int
    examined: int
    denied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamesStatus:
    """Domain names in policies. `addresses`: learned ones, each counted for each of the `names` that has it.

    `refused`: addresses of DNS answers that were not learned, by cause. `dns_servers`: those whose answers count; none if no policy of a
    local pod has domain names. `problem`: why the learned addresses are not kept for the next start, or None.
    """

    names: int
    addresses: int
    refused: dict[str, int]
    dns_servers: list[str]
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficStatus:
    """Packets and bytes of flows. `counted`: whether they are, because conntrack accounting is on. `missed`: connections that have ended
    without being read. `problem`: why they cannot be read, or None.
    """

    counted: bool
    missed: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowsStatus:
    """The recorded flows. `records`: present number, of at most `max_records`. `unrecorded`: connections in no record, because too many
    flows were different; `lost`: those that workers had no room to report; `dropped_early`: records that were dropped before their hour
    was over; `damaged`: reads of a worker's flow memory that failed. `traffic`: None if the settings do not ask for it.
    """

    records: int
    max_records: int
    unrecorded: int
    lost: int
    dropped_early: int
    damaged: int
    traffic: TrafficStatus | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterStatus:
    """An export of flow records to `target`, a path or a URL. `waiting`: records that are not exported yet. `records`: numbers of the
    others by outcome (exported, lost, rejected). `problem`: why records wait or were rejected, or None.
    """

    name: str
    target: str
    waiting: int
    records: dict[str, int]
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsStatus:
    """The Events of denied connections. `waiting`: series of connections that are not written yet. `events`: numbers by outcome (written,
    suppressed, failed). `problem`: why Events are not written, or None.
    """

    waiting: int
    events: dict[str, int]
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStatus:
    """The report to `netpolq ui`. `address`: where it is served. `problem`: why the present certificates are not used, or None; without
    former ones no client is served.
    """

    address: str
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole document. `node`: the node name that makes a pod local.

    `cni_results`: None if the agent does not read them. `snapshot_version`: the newest published version. `in_force_version`: the newest
    version that every worker uses and whose isolated pods are in the kernel. `run_dir_problem`: what is wrong with the run directory, or
    None. `programming_latency_s`: from the notice of the last change that came into force until then; None before.
    `waiting`: None before its first report. `flows`: None if they are not recorded. `flow_export`: empty if the settings ask for none.
    `events`, `report`: None if they do not ask for them.
    """

    version: str
    node: str
    snapshot_version: int
    in_force_version: int
    ready: bool
    not_ready_reasons: list[str]
    workers: list[WorkerStatus]
    waiting: WaitingStatus | None
    source: SourceStatus
    cni_results: CniResultsStatus | None
    rejected: list[Rejection]
    dataplane: DataplaneStatus
    verdict_cache: VerdictCacheStatus
    strict_mode: StrictModeStatus
    domain_names: NamesStatus
    programming_latency_s: float | None
    supervisor_restarts: int
    run_dir_problem: str | None
    flows: FlowsStatus | None
    flow_export: list[ExporterStatus]
    events: EventsStatus | None
    report: ReportStatus | None


def encode(status: Status) -> bytes:
    """The document as JSON."""
    return orjson.dumps(status)


def decode(data: bytes) -> Status:
    """The document in JSON bytes. Raises `ValueError` for other fields than those of this version. Types of numbers are not checked."""
    try:
        document = orjson.loads(data)
        return Status(
            **{
                **document,
                "workers": [WorkerStatus(**worker) for worker in document["workers"]],
                "waiting": _waiting(document.get("waiting")),
                "source": SourceStatus(**document["source"]),
                "cni_results": None if document["cni_results"] is None else CniResultsStatus(**document["cni_results"]),
                "rejected": [_rejection(rejection) for rejection in document["rejected"]],
                "dataplane": DataplaneStatus(**document["dataplane"]),
                "verdict_cache": VerdictCacheStatus(**document["verdict_cache"]),
                "strict_mode": StrictModeStatus(**document["strict_mode"]),
                "domain_names": NamesStatus(**document["domain_names"]),
                # An older agent does not send this field.
                "events": _events(document.get("events")),
                "report": _report(document.get("report")),
                "flows": _flows(document.get("flows")),
                "flow_export": [ExporterStatus(**exporter) for exporter in document.get("flow_export", ())],
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a status document: {error}") from error


def _waiting(fields: dict[str, Any] | None) -> WaitingStatus | None:
    # An older agent does not send this field.
    return None if fields is None else WaitingStatus(**fields)


def _events(fields: dict[str, Any] | None) -> EventsStatus | None:
    # An older agent does not send this field.
    return None if fields is None else EventsStatus(**fields)


def _report(fields: dict[str, Any] | None) -> ReportStatus | None:
    # An older agent does not send this field.
    return None if fields is None else ReportStatus(**fields)


def _flows(fields: dict[str, Any] | None) -> FlowsStatus | None:
    # An older agent does not send this field.
    if fields is None:
        return None
    traffic = fields["traffic"]
    return FlowsStatus(**{**fields, "traffic": None if traffic is None else TrafficStatus(**traffic)})


def _rejection(fields: dict[str, Any]) -> Rejection:
    # JSON has no tuples. An older agent does not send this field.
    return Rejection(**{**fields, "further": tuple(fields.get("further", ()))})
