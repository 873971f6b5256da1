"""The frozen `Settings`, resolved from flags, environment and file, and their conversion back to flags."""

import socket

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netpolq.enums import Dataplane, LoggingFormat, NodeEgress, VerdictCacheMode
from netpolq.errors import SettingsError
from netpolq.hold.ranges import PodRange, listed
from netpolq.logs import PACKET_LOG_VERBOSITY
from netpolq.settings import definitions
from netpolq.settings.cpu_limit import usable_cpus
from netpolq.settings.options import Given, Option, Values, from_argv, from_environment, from_file, parse_given
from netpolq.settings.parsers import MAX_QUEUE, BindAddress, QueueRange

_MAX_AUTO_WORKERS = 16
"""Sixteen workers evaluate more first packets than any node opens connections. Each worker has a cost without load: 3 MiB of its own
memory, a thousandth of a CPU, and a check of each new snapshot, which is in force only when the last worker has loaded it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of an agent, checked and with defaults applied.

    `queue_first`, `queue_count`: worker k serves queue `queue_first + k`. `metrics_host`: empty for all addresses, IPv6 without
    brackets. `metrics_port` 0: the kernel chooses. `hostname`: never empty. `netfilter_bug_1766_fix` None: depends on the kernel
    version. `verbosity`: 0 to 10. `mark_mask`: three adjacent bits; `ct_label`: the first bit in the conntrack label. `run_dir`: absolute.
    `pod_cidrs`: empty if the agent reads the ranges from the CNI configuration in `cni_conf_dir` (None: it does not read them).
    """

    kubeconfig: str
    manifests: Path | None
    fail_open: bool
    pod_cidrs: tuple[PodRange, ...]
    cni_conf_dir: Path | None
    queue_first: int
    queue_count: int
    metrics_host: str
    metrics_port: int
    hostname: str
    netfilter_bug_1766_fix: bool | None
    disable_nri: bool
    strict_mode: bool
    verbosity: int
    log_denied: bool
    fanout: bool
    dataplane: Dataplane
    mark_mask: int
    ct_label: int
    node_egress: NodeEgress
    verdict_cache_mode: VerdictCacheMode
    verdict_cache_ttl_s: int
    verdict_cache_size: int
    run_dir: Path
    logging_format: LoggingFormat
    takeover: bool

    def with_queues(self, queues: range) -> "Settings":
        """Return the same settings with other queues. The number of workers changes with their number."""
        return replace(self, queue_first=queues.start, queue_count=len(queues))

    @property
    def queues(self) -> QueueRange:
        """The queue numbers, one for each worker."""
        return QueueRange(self.queue_first, self.queue_first + self.queue_count - 1)

    @property
    def verdict_cache(self) -> bool:
        """Whether the kernel caches verdicts."""
        if self.verdict_cache_mode is VerdictCacheMode.AUTO:
            return self.verbosity < PACKET_LOG_VERBOSITY
        return self.verdict_cache_mode is VerdictCacheMode.ON

    @property
    def pod_names(self) -> bool:
        """Whether the snapshot contains pod names, which workers use in the packet log."""
        return self.log_denied or self.verbosity >= PACKET_LOG_VERBOSITY

    def to_argv(self) -> list[str]:
        """Return flags from which `resolve` makes the same settings in any environment.

        Every option is given, so that no lower layer applies; with the empty `--config`, `resolve` reads no file. `--queue-balance`
        replaces the three flags of the queues.
        """
        fix = "auto" if self.netfilter_bug_1766_fix is None else _boolean(self.netfilter_bug_1766_fix)
        return [
            f"--{option.name}={text}"
            for option, text in (
                (definitions.CONFIG, ""),
                (definitions.MANIFESTS, "" if self.manifests is None else str(self.manifests)),
                (definitions.KUBECONFIG, self.kubeconfig),
                (definitions.HOSTNAME_OVERRIDE, self.hostname),
                (definitions.QUEUE_BALANCE, str(self.queues)),
                (definitions.FANOUT, _boolean(self.fanout)),
                (definitions.DATAPLANE, self.dataplane.value),
                (definitions.MARK_MASK, hex(self.mark_mask)),
                (definitions.CT_LABEL, str(self.ct_label)),
                (definitions.VERDICT_CACHE, self.verdict_cache_mode.value),
                (definitions.VERDICT_CACHE_TTL, str(self.verdict_cache_ttl_s)),
                (definitions.VERDICT_CACHE_SIZE, str(self.verdict_cache_size)),
                (definitions.RUN_DIR, str(self.run_dir)),
                (definitions.FAIL_OPEN, _boolean(self.fail_open)),
                (definitions.POD_CIDRS, listed(self.pod_cidrs)),
                (definitions.CNI_CONF_DIR, "" if self.cni_conf_dir is None else str(self.cni_conf_dir)),
                (definitions.STRICT_MODE, _boolean(self.strict_mode)),
                (definitions.NODE_EGRESS, self.node_egress.value),
                (definitions.METRICS_BIND_ADDRESS, str(BindAddress(self.metrics_host, self.metrics_port))),
                (definitions.VERBOSITY, str(self.verbosity)),
                (definitions.LOG_DENIED, _boolean(self.log_denied)),
                (definitions.LOGGING_FORMAT, self.logging_format.value),
                (definitions.NETFILTER_BUG_1766_FIX, fix),
                (definitions.DISABLE_NRI, _boolean(self.disable_nri)),
                (definitions.TAKEOVER, _boolean(self.takeover)),
            )
        ]


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
    metrics = values[definitions.METRICS_BIND_ADDRESS]
    return Settings(
        kubeconfig=values[definitions.KUBECONFIG],
        manifests=values[definitions.MANIFESTS],
        fail_open=values[definitions.FAIL_OPEN],
        pod_cidrs=values[definitions.POD_CIDRS],
        cni_conf_dir=values[definitions.CNI_CONF_DIR],
        queue_first=queues.first,
        queue_count=queues.last - queues.first + 1,
        metrics_host=metrics.host,
        metrics_port=metrics.port,
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
        verdict_cache_mode=values[definitions.VERDICT_CACHE],
        verdict_cache_ttl_s=values[definitions.VERDICT_CACHE_TTL],
        verdict_cache_size=values[definitions.VERDICT_CACHE_SIZE],
        run_dir=values[definitions.RUN_DIR],
        log_denied=values[definitions.LOG_DENIED],
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


def _named(values: Values, option: Option[object]) -> str:
    given = values.given(option) or Given(f"default of --{option.name}", option.default)
    return f"{given.origin} ({given.text!r})"


def _own_host_name() -> str:
    name = socket.gethostname()
    try:
        found = definitions.HOSTNAME_OVERRIDE.parse(name)
    except ValueError:
        found = ""
    if not found:
        raise SettingsError(f"invalid host name {name!r} of this machine; set --hostname-override to the name of the node")
    return found


def _boolean(value: bool) -> str:
    return "true" if value else "false"
