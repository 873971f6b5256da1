"""Renders the status document as text for a terminal, or as indented JSON."""

from collections.abc import Iterator

import orjson

from netpolq.logs import one_line
from netpolq.supervisor.status import (
    CniResultsStatus,
    EventsStatus,
    ExporterStatus,
    FlowsStatus,
    NamesStatus,
    ReportStatus,
    Status,
    StrictModeStatus,
    TrafficStatus,
    VerdictCacheStatus,
    WaitingStatus,
    WorkerStatus,
)
from netpolq.text_table import columns


def render_json(status: Status) -> str:
    """The document as indented JSON, without the last line end."""
    return orjson.dumps(status, option=orjson.OPT_INDENT_2).decode()


def render_text(status: Status) -> str:
    """The document as text, without the last line end. Unprintable characters, such as those of file names, are escaped."""
    return "\n".join(one_line(line) for line in _lines(status))


def _lines(status: Status) -> Iterator[str]:
    source, dataplane = status.source, status.dataplane
    state = "ready" if status.ready else f"not ready: {'; '.join(status.not_ready_reasons) or 'no reason given'}"
    ignored = f"; ignored: {_counts(source.ignored)}" if source.ignored else ""
    age = "no sync yet" if source.age_s is None else f"last sync {_duration(source.age_s)} ago"
    yield from columns(
        [
            (f"netpolq {status.version}", state),
            ("node", status.node),
            ("snapshot", _snapshot(status)),
            ("source", f"{source.kind} {source.location}, {'synced' if source.synced else 'not synced'}, {age}"),
            *(("source problem", problem) for problem in source.problems),
            ("objects", _counts(source.objects) + ignored),
            *(_cni_results(status.cni_results) if status.cni_results is not None else ()),
            ("data plane", f"{dataplane.form}, queues {dataplane.queues}, fail-{'open' if dataplane.fail_open else 'closed'}"),
            ("isolated addresses", f"{dataplane.isolated_ingress} ingress, {dataplane.isolated_egress} egress"),
            *((("hold", dataplane.hold),) if dataplane.hold is not None else ()),
            ("verdict cache", _verdict_cache(status.verdict_cache)),
            ("strict mode", _strict_mode(status.strict_mode)),
            ("packets on hold", "unknown" if status.waiting is None else f"{status.waiting.held:,}"),
            ("domain names", _names(status.domain_names)),
            *((("domain names", status.domain_names.problem),) if status.domain_names.problem is not None else ()),
            ("packets without a verdict", f"{dataplane.unjudged_packets:,}"),
            ("supervisor restarts", str(status.supervisor_restarts)),
            *((("run directory", status.run_dir_problem),) if status.run_dir_problem is not None else ()),
            *(_flows(status.flows) if status.flows is not None else ()),
            *(line for exporter in status.flow_export for line in _exporter(exporter)),
            *(() if status.events is None else _events(status.events)),
            *(() if status.report is None else _report(status.report)),
        ],
        align="<<",
    )
    yield ""
    header = ("WORKER", "PID", "QUEUE", "SNAPSHOT", "PACKETS", "RESTARTS", "MEMORY")
    rows = [_worker_row(str(worker.slot), worker, status.snapshot_version) for worker in status.workers]
    if status.waiting is not None:
        rows.append(_worker_row("waiting", status.waiting, status.snapshot_version))
    yield from columns([header, *rows], align="<>>>>>>")
    if status.rejected:
        yield ""
        yield f"rejected ({len(status.rejected)})"
        for rejection in status.rejected:
            document = f"document {rejection.document}" if rejection.document else ""
            yield "  " + "  ".join(part for part in (rejection.origin, document, rejection.key, rejection.field) if part)
            *before, last = rejection.message, *rejection.further
            yield from (f"      {text}" for text in before)
            yield f"      {last}; {rejection.consequence}"


def _cni_results(results: CniResultsStatus) -> Iterator[tuple[str, str]]:
    missing = "" if results.folder_exists else " does not exist"
    yield "CNI results", f"{results.location}{missing}, {results.early_addresses} early addresses"
    yield from (("CNI results problem", problem) for problem in results.problems)
    if results.unusable_files:
        yield "CNI results not used", f"{results.unusable_files}, such as {results.example}"


def _flows(flows: FlowsStatus) -> Iterator[tuple[str, str]]:
    losses = (
        (flows.unrecorded, "connections in no record"),
        (flows.lost, "connections lost by workers"),
        (flows.dropped_early, "records dropped early"),
        (flows.damaged, "failed reads of a worker's records"),
    )
    lost = ", ".join(f"{count:,} {what}" for count, what in losses if count)
    yield "flows", f"{flows.records:,} of {flows.max_records:,} records{lost and '; '}{lost}"
    if flows.traffic is not None:
        yield "flow traffic", _traffic(flows.traffic)


def _traffic(traffic: TrafficStatus) -> str:
    missed = f"; {traffic.missed:,} connections ended uncounted" if traffic.missed else ""
    if traffic.counted:
        return f"packets and bytes are counted{missed}"
    return f"not counted: {traffic.problem or 'net.netfilter.nf_conntrack_acct is not 1'}{missed}"


def _exporter(exporter: ExporterStatus) -> Iterator[tuple[str, str]]:
    lost = {outcome: count for outcome, count in exporter.records.items() if count and outcome != "exported"}
    more = f"; {_counts(lost)}" if lost else ""
    exported = exporter.records.get("exported", 0)
    yield "flow export", f"{exporter.target}, {exported:,} records exported, {exporter.waiting:,} waiting{more}"
    if exporter.problem is not None:
        yield "flow export problem", exporter.problem


def _events(events: EventsStatus) -> Iterator[tuple[str, str]]:
    yield "events", f"{_counts(events.events)}; {events.waiting:,} waiting"
    if events.problem is not None:
        yield "events problem", events.problem


def _report(report: ReportStatus) -> Iterator[tuple[str, str]]:
    yield "report", f"served at {report.address}"
    if report.problem is not None:
        yield "report problem", report.problem


def _snapshot(status: Status) -> str:
    """The newest snapshot, and the version in force if that is another one."""
    newest, in_force, latency = status.snapshot_version, status.in_force_version, status.programming_latency_s
    if not newest:
        return f"none published yet; in force: {_version_in_use(status)}"
    if in_force >= newest:
        return f"version {newest}, in force everywhere" + ("" if latency is None else f" after {latency * 1000:.1f} ms")
    return f"version {newest} is published, not yet in force; in force: {f'version {in_force}' if in_force else _version_in_use(status)}"


def _version_in_use(status: Status) -> str:
    """The snapshot that workers use while no version is in force: one of an earlier run or supervisor, or none."""
    versions = sorted({worker.acked_version for worker in status.workers if worker.acked_version})
    if not versions:
        return "nothing" if status.dataplane.fail_open else "nothing, so that new connections of isolated pods are dropped"
    return f"an earlier snapshot, version {' and '.join(map(str, versions))}"


def _worker_row(name: str, worker: WorkerStatus | WaitingStatus, newest: int) -> tuple[str, ...]:
    return (
        name,
        str(worker.pid) if worker.pid else "none",
        str(worker.queue_num),
        f"{worker.acked_version}{'' if worker.acked_version >= newest else ' (old)'}",
        f"{worker.packets:,}",
        str(worker.restarts),
        f"{worker.rss_bytes / 2**20:.1f} MiB",
    )


def _verdict_cache(cache: VerdictCacheStatus) -> str:
    if not cache.enabled:
        return "off: a worker evaluates every first packet"
    return f"{cache.entries:,} of {cache.size:,} decisions in the kernel, for {cache.ttl_s} s each; {cache.hits:,} hits"


def _strict_mode(strict: StrictModeStatus) -> str:
    if not strict.enabled:
        return "off: established connections stay accepted"
    return f"evaluated by version {strict.done_version or 'none'}; {strict.denied:,} of {strict.examined:,} established connections denied"


def _names(names: NamesStatus) -> str:
    if not names.dns_servers and not names.names:
        return "not used by policies of this node's pods"
    refused = {cause: count for cause, count in names.refused.items() if count}
    more = f"; not learned: {_counts(refused)}" if refused else ""
    servers = ", ".join(names.dns_servers) or "none is known"
    return f"{names.addresses:,} addresses of {names.names:,} names; DNS servers: {servers}{more}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"


def _duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes, hours and days, rounded down."""
    for unit_s, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{int(seconds // unit_s)} {name}"
    return f"{seconds:.1f} s"
