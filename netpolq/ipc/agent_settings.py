"""The settings of a running agent, as pool and supervisor have them. `netpolq.ipc.settings_document` passes them from one to the other.

The annotations of a field tell its flag, if the flag has another name, and the bounds of a number.
"""

import ipaddress
import re

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

from netpolq.enums import (
    CONNECTION_LABEL_BITS,
    Dataplane,
    DenyWith,
    Enforcement,
    FlowsMode,
    HoldUnknown,
    LoggingFormat,
    NodeEgress,
    PolicyMetrics,
    VerdictCacheMode,
)
from netpolq.ipc.channel import Logging
from netpolq.logs import PACKET_LOG_VERBOSITY

MAX_WORKERS = 256
EXTRA_QUEUES = 2
"""Queues behind those of the workers: the waiting queue, and the DNS queue."""
MAX_QUEUE = 0xFFFF - EXTRA_QUEUES
"""Maximum number of a worker's queue."""
MAX_VERBOSITY = 10
MAX_CT_LABEL = 128 - CONNECTION_LABEL_BITS
"""A conntrack label has 128 bits. Source: linux/netfilter/xt_connlabel.h."""
MAX_VERDICT_TTL_S = 86400
MAX_CACHED_VERDICTS = 1 << 20
MAX_HOLD_TIMEOUT_S = 30
MAX_DNS_SECONDS = 86400
MIN_FLOW_RECORDS = 1000
MAX_FLOW_RECORDS = 1_000_000
MIN_FLOW_FILE_BYTES = 1 << 20
MAX_FLOW_FILE_BYTES = 1 << 40
MAX_FLOW_FILES = 1000

_BIND_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[A-Za-z0-9._-]*)):(?P<port>[0-9]{1,5})")

Addresses = ipaddress.IPv4Network | ipaddress.IPv6Network


class QueueRange(NamedTuple):
    """Queue numbers `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"

    @property
    def numbers(self) -> range:
        """All queue numbers."""
        return range(self.first, self.last + 1)


def waiting_queue_of(queues: range) -> int | None:
    """The waiting queue among all queues of an agent; None if they are too few to have one. See `Settings.all_queues`."""
    return queues[-EXTRA_QUEUES] if len(queues) > EXTRA_QUEUES else None


class BindAddress(NamedTuple):
    """A listen address. `host`: a name, an IPv4 address or an IPv6 address without brackets; empty: all addresses of both families."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "BindAddress":
        """Return the address of `host:port`, in the syntax of Go's net.Listen with a numeric port. With port 0 the kernel chooses one.

        Raises `ValueError`.
        """
        match = _BIND_ADDRESS.fullmatch(text)
        if not match or int(match["port"]) > 0xFFFF:
            raise ValueError("must be HOST:PORT")
        if match["ipv6"] is not None:
            return cls(str(ipaddress.IPv6Address(match["ipv6"])), int(match["port"]))
        return cls(match["host"], int(match["port"]))


class Flag(NamedTuple):
    """The flag of a field, where it is not the name of the field."""

    name: str


class Between(NamedTuple):
    """The bounds of a number, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of an agent, checked and with defaults applied.

    `queue_first`, `queue_count`: worker k serves queue `queue_first + k`. `hostname`: never empty. `netfilter_bug_1766_fix` None: depends
    on the kernel version. `mark_mask`: three adjacent bits; `ct_label`: the first bit in the conntrack label. `run_dir`: absolute.
    `pod_cidrs`: empty if the agent reads the ranges from the CNI configuration in `cni_conf_dir` (None: it does not read them).
    `hold_unknown_peers`: ranges of pods of other nodes. `pod_interfaces`: names of interfaces, each a name or a start followed by `*`.
    `cni_results` None: the agent does not read them. `dns_servers`: address texts; empty: the agent finds them itself.
    `flow_export_file`: absolute, or None; `flow_export_otlp`: a URL, or empty: flows are not exported there.
    `report_bind_address`: None if the agent serves no report; then the other `report_` settings have no effect, else none is None.
    """

    manifests: Path | None
    kubeconfig: str
    hostname: Annotated[str, Flag("hostname-override")]
    queue_first: Annotated[int, Flag("nfqueue-id"), Between(0, MAX_QUEUE)]
    queue_count: Annotated[int, Flag("workers"), Between(1, MAX_WORKERS)]
    fanout: bool
    takeover: bool
    dataplane: Dataplane
    mark_mask: Annotated[int, Between(0b111, 0b111 << 29)]
    ct_label: Annotated[int, Between(0, MAX_CT_LABEL)]
    verdict_cache_mode: Annotated[VerdictCacheMode, Flag("verdict-cache")]
    verdict_cache_ttl_s: Annotated[int, Flag("verdict-cache-ttl"), Between(1, MAX_VERDICT_TTL_S)]
    verdict_cache_size: Annotated[int, Between(2, MAX_CACHED_VERDICTS)]
    run_dir: Path
    fail_open: bool
    pod_cidrs: tuple[Addresses, ...]
    cni_conf_dir: Path | None
    cni_results: Path | None
    hold_unknown: HoldUnknown
    hold_timeout_s: Annotated[int, Flag("hold-timeout"), Between(1, MAX_HOLD_TIMEOUT_S)]
    hold_unknown_peers: tuple[Addresses, ...]
    pod_interfaces: tuple[str, ...]
    dns_servers: tuple[str, ...]
    dns_min_ttl_s: Annotated[int, Flag("dns-min-ttl"), Between(0, MAX_DNS_SECONDS)]
    dns_grace_s: Annotated[int, Flag("dns-grace"), Between(0, MAX_DNS_SECONDS)]
    strict_mode: bool
    node_egress: NodeEgress
    deny_with: DenyWith
    audit: bool
    metrics_bind_address: BindAddress
    verbosity: Annotated[int, Flag("v"), Between(0, MAX_VERBOSITY)]
    log_denied: bool
    flows: FlowsMode
    policy_metrics: PolicyMetrics
    flow_records: Annotated[int, Between(MIN_FLOW_RECORDS, MAX_FLOW_RECORDS)]
    flow_bytes: bool
    policy_status: bool
    events: bool
    flow_export_file: Path | None
    flow_export_file_max_bytes: Annotated[int, Between(MIN_FLOW_FILE_BYTES, MAX_FLOW_FILE_BYTES)]
    flow_export_file_keep: Annotated[int, Between(0, MAX_FLOW_FILES)]
    flow_export_otlp: str
    flow_export_otlp_headers_file: Path | None
    report_bind_address: BindAddress | None
    report_tls_certificate: Path | None
    report_tls_key: Path | None
    report_tls_client_ca: Path | None
    report_tls_client_name: str
    logging_format: LoggingFormat
    netfilter_bug_1766_fix: bool | None
    disable_nri: bool

    def with_queues(self, queues: range) -> "Settings":
        """Return the same settings with other queues. The number of workers changes with their number."""
        return replace(self, queue_first=queues.start, queue_count=len(queues))

    @property
    def queues(self) -> QueueRange:
        """The queue numbers, one for each worker."""
        return QueueRange(self.queue_first, self.queue_first + self.queue_count - 1)

    @property
    def all_queues(self) -> range:
        """All queue numbers of the agent: those of the workers, then the waiting queue and the DNS queue."""
        return range(self.queue_first, self.queue_first + self.queue_count + EXTRA_QUEUES)

    @property
    def waiting_queue(self) -> int:
        """Number of the queue in which packets wait until their addresses are known."""
        return self.queue_first + self.queue_count

    @property
    def dns_queue(self) -> int:
        """Number of the queue of DNS messages of pods with domain names in their policies."""
        return self.queue_first + self.queue_count + 1

    @property
    def verdict_cache(self) -> bool:
        """Whether the kernel caches verdicts."""
        if self.verdict_cache_mode is VerdictCacheMode.AUTO:
            return self.verbosity < PACKET_LOG_VERBOSITY
        return self.verdict_cache_mode is VerdictCacheMode.ON

    @property
    def hints(self) -> bool:
        """Whether workers report repeated decisions. With `auto` they do: the verbosity, on which the cache depends, can change."""
        return self.verdict_cache_mode is not VerdictCacheMode.OFF

    @property
    def enforcement(self) -> Enforcement:
        """What becomes of the decisions of a policy where no annotation says."""
        return Enforcement.AUDIT if self.audit else Enforcement.ENFORCE

    @property
    def pod_names(self) -> bool:
        """Whether the snapshot contains pod names, which workers use in the packet log."""
        return self.log_denied or self.verbosity >= PACKET_LOG_VERBOSITY

    @property
    def logging(self) -> Logging:
        """What workers log."""
        return Logging(self.verbosity, self.log_denied)
