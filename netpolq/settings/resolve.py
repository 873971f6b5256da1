"""The resolution of flags, environment and file into `Settings`."""

import socket

from collections.abc import Mapping, Sequence

from netpolq.errors import SettingsError
from netpolq.hold.ranges import collapse
from netpolq.ipc.agent_settings import MAX_QUEUE, QueueRange, Settings
from netpolq.settings import definitions
from netpolq.settings.cpu_limit import usable_cpus
from netpolq.settings.options import Given, Option, Values, from_argv, from_environment, from_file, parse_given

_MAX_AUTO_WORKERS = 16
"""Sixteen workers evaluate more first packets than any node opens connections. Each worker has a cost without load: 3 MiB of its own
memory, a thousandth of a CPU, and a check of each new snapshot, which is in force only when the last worker has loaded it."""


def resolve(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of the arguments after the command, of the environment, and of the file that one of the two names.

    Precedence: flag, environment, file, default. Raises `SettingsError`. Reads only the host name and the usable CPUs of the machine,
    each only if needed. It does not check that folders exist.
    """
    flags = from_argv(definitions.OPTIONS, argv)
    environment = from_environment(definitions.OPTIONS, environ)
    config = Values(flags, environment)[definitions.CONFIG]
    values = Values(flags, environment, from_file(definitions.FILE_OPTIONS, config) if config else {})
    queues = _queues(values)
    _check_report(values)
    return Settings(
        kubeconfig=values[definitions.KUBECONFIG],
        manifests=values[definitions.MANIFESTS],
        fail_open=values[definitions.FAIL_OPEN],
        pod_cidrs=collapse(values[definitions.POD_CIDRS]),
        cni_conf_dir=values[definitions.CNI_CONF_DIR],
        cni_results=values[definitions.CNI_RESULTS],
        hold_unknown=values[definitions.HOLD_UNKNOWN],
        hold_timeout_s=values[definitions.HOLD_TIMEOUT],
        hold_unknown_peers=collapse(values[definitions.HOLD_UNKNOWN_PEERS]),
        pod_interfaces=values[definitions.POD_INTERFACES],
        dns_servers=values[definitions.DNS_SERVER_ADDRESSES],
        dns_min_ttl_s=values[definitions.DNS_MIN_TTL],
        dns_grace_s=values[definitions.DNS_GRACE],
        queue_first=queues.first,
        queue_count=queues.last - queues.first + 1,
        metrics_bind_address=values[definitions.METRICS_BIND_ADDRESS],
        hostname=values[definitions.HOSTNAME_OVERRIDE] or _own_host_name(),
        netfilter_bug_1766_fix=values[definitions.NETFILTER_BUG_1766_FIX],
        disable_nri=values[definitions.DISABLE_NRI],
        strict_mode=values[definitions.STRICT_MODE],
        verbosity=values[definitions.VERBOSITY],
        fanout=values[definitions.FANOUT],
        dataplane=values[definitions.DATAPLANE],
        mark_mask=values[definitions.MARK_MASK],
        ct_label=values[definitions.CT_LABEL],
        node_egress=values[definitions.NODE_EGRESS],
        deny_with=values[definitions.DENY_WITH],
        audit=values[definitions.AUDIT],
        verdict_cache_mode=values[definitions.VERDICT_CACHE],
        verdict_cache_ttl_s=values[definitions.VERDICT_CACHE_TTL],
        verdict_cache_size=values[definitions.VERDICT_CACHE_SIZE],
        run_dir=values[definitions.RUN_DIR],
        log_denied=values[definitions.LOG_DENIED],
        flows=values[definitions.FLOWS],
        policy_metrics=values[definitions.POLICY_METRICS],
        flow_records=values[definitions.FLOW_RECORDS],
        flow_bytes=values[definitions.FLOW_BYTES],
        policy_status=values[definitions.POLICY_STATUS],
        events=values[definitions.EVENTS],
        flow_export_file=values[definitions.FLOW_EXPORT_FILE],
        flow_export_file_max_bytes=values[definitions.FLOW_EXPORT_FILE_MAX_BYTES],
        flow_export_file_keep=values[definitions.FLOW_EXPORT_FILE_KEEP],
        flow_export_otlp=values[definitions.FLOW_EXPORT_OTLP],
        flow_export_otlp_headers_file=values[definitions.FLOW_EXPORT_OTLP_HEADERS_FILE],
        report_bind_address=values[definitions.REPORT_BIND_ADDRESS],
        report_tls_certificate=values[definitions.REPORT_TLS_CERTIFICATE],
        report_tls_key=values[definitions.REPORT_TLS_KEY],
        report_tls_client_ca=values[definitions.REPORT_TLS_CLIENT_CA],
        report_tls_client_name=values[definitions.REPORT_TLS_CLIENT_NAME],
        logging_format=values[definitions.LOGGING_FORMAT],
        takeover=values[definitions.TAKEOVER],
    )


def _queues(values: Values) -> QueueRange:
    """Return the queues of the highest layer that gives either form. Raises `SettingsError` if a layer gives both."""
    for layer in values.layers:
        balance = layer.get(definitions.QUEUE_BALANCE.name)
        count_form = [layer[option.name] for option in (definitions.NFQUEUE_ID, definitions.WORKERS) if option.name in layer]
        exact = None if balance is None else parse_given(definitions.QUEUE_BALANCE, balance)
        if balance is not None and exact is not None:
            if count_form:
                raise SettingsError(
                    f"{balance.origin}: {balance.text!r} cannot be combined with {count_form[0].origin} ({count_form[0].text!r}); "
                    "allowed: one of the two"
                )
            return exact
        if count_form:
            break
    first = values[definitions.NFQUEUE_ID]
    count = values[definitions.WORKERS]
    if count is None:
        count = min(usable_cpus(), _MAX_AUTO_WORKERS)
    last = first + count - 1
    if last > MAX_QUEUE:
        raise SettingsError(
            f"{_named(values, definitions.NFQUEUE_ID)} with {_named(values, definitions.WORKERS)}: "
            f"invalid queues {first} to {last}; allowed: queue numbers up to {MAX_QUEUE}"
        )
    return QueueRange(first, last)


def _check_report(values: Values) -> None:
    """Raises `SettingsError` if the report is to be served and a file for it is not given."""
    if values[definitions.REPORT_BIND_ADDRESS] is None:
        return
    files = (definitions.REPORT_TLS_CERTIFICATE, definitions.REPORT_TLS_KEY, definitions.REPORT_TLS_CLIENT_CA)
    if missing := [f"--{option.name}" for option in files if values[option] is None]:
        raise SettingsError(f"{_named(values, definitions.REPORT_BIND_ADDRESS)} needs {' and '.join(missing)} with a file")


def _named(values: Values, option: Option[object]) -> str:
    given = values.given(option) or Given(f"default of --{option.name}", option.default)
    return f"{given.origin} ({given.text!r})"


def _own_host_name() -> str:
    name = socket.gethostname()
    try:
        found = definitions.HOSTNAME_OVERRIDE.value_type.parse(name)
    except ValueError:
        found = ""
    if not found:
        raise SettingsError(f"invalid host name {name!r} of this machine; set --hostname-override to the name of the node")
    return found
