"""Source and ruleset configuration that the settings ask for, and the log line that names them."""

import logging
import os

from collections.abc import Coroutine
from importlib.metadata import version

from prometheus_client import CollectorRegistry

from netpolq.dataplane.host_checks import dns_in_prerouting
from netpolq.dataplane.ruleset import RulesetConfig
from netpolq.enums import ConnectionLabel, Dataplane, DenyWith, FlowsMode, HoldUnknown
from netpolq.events.part import DenialEvents
from netpolq.flows.export.exporter import Exporter
from netpolq.flows.export.part import FlowExport
from netpolq.flows.traffic import Traffic
from netpolq.flows.traffic_reader import TrafficReader
from netpolq.settings import Settings
from netpolq.sources.cni_results.early_addresses import EarlyAddresses
from netpolq.sources.cni_results.watch import CniResults
from netpolq.sources.folder.source import ManifestFolder
from netpolq.sources.source import Deliver, Source
from netpolq.store import Store
from netpolq.tls import TlsContext, TlsFile, server_context

log = logging.getLogger("supervisor")


def make_source(settings: Settings) -> Source:
    """The source that the settings select: a directory of manifests, or the cluster."""
    if settings.manifests is not None:
        return ManifestFolder(settings.manifests)
    # Imported here: the kubernetes package takes a second and tens of megabytes, which a directory of manifests does not need.
    from netpolq.sources.kubernetes.source import ClusterSource  # noqa: PLC0415

    return ClusterSource(settings.kubeconfig, node_name=settings.hostname)


def make_cni_results(settings: Settings, store: Store, deliver: Deliver) -> CniResults | None:
    """The reader of CNI results, whose updates go to `deliver`; None if switched off, or with manifests, which name all addresses."""
    if settings.cni_results is None or settings.manifests is not None:
        return None
    return CniResults(settings.cni_results, EarlyAddresses(settings.hostname, store.pods_with_address), deliver)


def make_flow_export(settings: Settings) -> FlowExport | None:
    """The export of flow records; None unless the settings ask for one. The variables are those of OpenTelemetry exporters."""
    exporters: list[Exporter] = []
    if settings.flow_export_file is not None:
        from netpolq.flows.export.file import FileExporter  # noqa: PLC0415

        exporters.append(
            FileExporter(
                settings.flow_export_file,
                max_bytes=settings.flow_export_file_max_bytes,
                keep=settings.flow_export_file_keep,
            )
        )
    if settings.flow_export_otlp:
        # Imported here: protobuf and its messages take a fifth of a second, which only this needs.
        from netpolq.flows.export.otlp.environment import OtlpEnvironment  # noqa: PLC0415
        from netpolq.flows.export.otlp.exporter import OtlpExporter  # noqa: PLC0415

        environment = OtlpEnvironment.read(os.environ, settings.flow_export_otlp_headers_file)
        exporters.append(OtlpExporter(settings.flow_export_otlp, node=settings.hostname, environment=environment))
    return FlowExport(exporters) if exporters else None


def make_report_tls(settings: Settings) -> TlsContext | None:
    """The certificates of the report to `netpolq ui`; None unless the settings ask for it.

    Enforcement does not depend on them: as long as a file is missing or cannot be used, no client is served.
    """
    certificate, key, client_ca = settings.report_tls_certificate, settings.report_tls_key, settings.report_tls_client_ca
    if settings.report_bind_address is None or certificate is None or key is None or client_ca is None:
        return None
    return server_context(
        TlsFile(flag="--report-tls-certificate", path=certificate),
        TlsFile(flag="--report-tls-key", path=key),
        TlsFile(flag="--report-tls-client-ca", path=client_ca),
        may_come_later=True,
    )


def make_traffic_reader(settings: Settings) -> TrafficReader | None:
    """The reader of packets and bytes of flows; None unless the settings ask for it and accepted connections are recorded."""
    if not settings.flow_bytes or settings.flows is not FlowsMode.ON:
        return None
    return TrafficReader(Traffic(), settings.ct_label + ConnectionLabel.ACCEPTED)


def write_policy_status(settings: Settings, source: Source, registry: CollectorRegistry) -> list[Coroutine[None, None, None]]:
    """The task that writes the conditions of cluster-wide policies; none unless the settings ask for it and the source is the cluster."""
    if not settings.policy_status or settings.manifests is not None:
        return []
    # Imported here, because without the option nothing of it is needed.
    from netpolq.policy_status.writer import PolicyStatus, own_namespace  # noqa: PLC0415
    from netpolq.sources.kubernetes.connection import Connection  # noqa: PLC0415
    from netpolq.sources.kubernetes.source import ClusterSource  # noqa: PLC0415

    if not isinstance(source, ClusterSource):
        raise TypeError("only the cluster has policies with a status")
    # A connection of its own: slow writes never wait for the reflectors, nor these for them.
    return [
        PolicyStatus(
            source,
            Connection(settings.kubeconfig),
            registry,
            hostname=settings.hostname,
            namespace=own_namespace(),
        ).run()
    ]


def make_events(settings: Settings, store: Store) -> DenialEvents | None:
    """The Events of denied connections; None unless the settings ask for them, and connections are recorded in a cluster."""
    if not settings.events or settings.manifests is not None or settings.flows is FlowsMode.OFF:
        return None
    return DenialEvents(store, settings.hostname)


def write_events(settings: Settings, events: DenialEvents | None) -> list[Coroutine[None, None, None]]:
    """The task that writes Events to the cluster; none without Events."""
    if events is None:
        return []
    # Imported here, because without the option nothing of it is needed.
    from netpolq.events.writer import EventWriter  # noqa: PLC0415
    from netpolq.sources.kubernetes.connection import Connection  # noqa: PLC0415

    # A connection of its own, as for the conditions of policies.
    return [EventWriter(events, Connection(settings.kubeconfig)).run()]


def ruleset_config(settings: Settings, form: Dataplane) -> RulesetConfig:
    """Configuration of the ruleset. `form`: of the queue rule."""
    waits = settings.hold_unknown is not HoldUnknown.OFF
    return RulesetConfig(
        queue_first=settings.queue_first,
        queue_count=settings.queue_count,
        fanout=settings.fanout,
        fail_open=settings.fail_open,
        mark_mask=settings.mark_mask,
        ct_label=settings.ct_label,
        node_egress=settings.node_egress,
        dns_in_prerouting=dns_in_prerouting(settings.netfilter_bug_1766_fix),
        form=form,
        verdict_cache=settings.verdict_cache,
        counts_verdicts=settings.verdict_cache and settings.flows is not FlowsMode.OFF,
        pod_ranges=settings.pod_cidrs if waits else (),
        pod_interfaces=settings.pod_interfaces if waits else (),
        dns_queue=settings.dns_queue,
        rejects=settings.deny_with is DenyWith.REJECT,
    )


def log_start(settings: Settings, form: Dataplane, source: Source) -> None:
    """Log the settings with which the agent starts."""
    log.info(
        "netpolq %s starts on node %s: %s, queues %s (%s), source %s %s, strict mode %s, verdict cache %s, verbosity %d",
        version("netpolq"),
        settings.hostname,
        "fail-open" if settings.fail_open else "fail-closed",
        settings.queues,
        form,
        source.kind,
        source.location,
        "on" if settings.strict_mode else "off",
        "on" if settings.verdict_cache else "off",
        settings.verbosity,
    )
