"""The table of options of `netpolq run`: name, default, allowed values and help text of each."""

from pathlib import Path

from netpolq.enums import CONNECTION_LABEL_BITS, Dataplane, LoggingFormat, NodeEgress, VerdictCacheMode
from netpolq.hold import cni, ranges, ruleset
from netpolq.ipc.agent_settings import (
    MAX_CACHED_VERDICTS,
    MAX_QUEUE,
    MAX_VERBOSITY,
    MAX_VERDICT_TTL_S,
    MAX_WORKERS,
    BindAddress,
    QueueRange,
)
from netpolq.settings.options import Option, OptionGroup
from netpolq.settings.parsers import (
    boolean,
    boolean_or_auto,
    host_name,
    integer,
    mark_mask,
    path_or_none,
    plain_text,
    queue_range,
    run_directory,
    worker_count,
)

_BOOLEAN = "true or false (also 1, 0, t, f, yes, no)"

MANIFESTS: Option[Path | None] = Option(
    name="manifests",
    parse=path_or_none,
    default="",
    metavar="DIR",
    allowed="a folder",
    help="Folder with namespaces, pods and network policies as *.yaml, *.yml or *.json, at any depth. The agent watches it for changes. "
    "Without this flag the agent watches the cluster.",
    group=OptionGroup.SOURCE,
)
KUBECONFIG: Option[str] = Option(
    name="kubeconfig",
    parse=plain_text,
    default="",
    metavar="FILE",
    allowed="a path",
    help="Kubeconfig file for access to the Kubernetes API. Without this flag and --manifests, the agent uses the files of the variable "
    "KUBECONFIG, or else the service account of its pod. ~ is the home folder.",
    group=OptionGroup.SOURCE,
    upstream=True,
)
HOSTNAME_OVERRIDE: Option[str] = Option(
    name="hostname-override",
    parse=host_name,
    default="",
    metavar="NAME",
    allowed="a node name of letters, digits, '.', '-' and '_', or nothing",
    help="Name of this node, as in spec.nodeName of its pods. Empty: the host name. The agent converts both to lower case, as the kubelet "
    "does.",
    group=OptionGroup.SOURCE,
    upstream=True,
)
CONFIG: Option[Path | None] = Option(
    name="config",
    parse=path_or_none,
    default="",
    metavar="FILE",
    allowed="a TOML file",
    help="TOML file with any of these settings. The keys are flag names without the leading dashes.",
    group=OptionGroup.SOURCE,
)
NFQUEUE_ID: Option[int] = Option(
    name="nfqueue-id",
    parse=integer(0, MAX_QUEUE),
    default="100",
    metavar="N",
    allowed=f"0 to {MAX_QUEUE}",
    help="Number of the first queue. Worker k serves queue N+k.",
    group=OptionGroup.QUEUES,
    toml_type=int,
    upstream=True,
)
WORKERS: Option[int | None] = Option(
    name="workers",
    parse=worker_count,
    default="auto",
    metavar="N",
    allowed=f"auto or 1 to {MAX_WORKERS}",
    help="Number of workers. Each worker is a process with its own queue. auto: one worker for each CPU that the agent can use (affinity "
    "and CPU limit), at most 16.",
    group=OptionGroup.QUEUES,
    toml_type=int,
)
QUEUE_BALANCE: Option[QueueRange | None] = Option(
    name="queue-balance",
    parse=queue_range,
    default="",
    metavar="A:B",
    allowed=f"A:B with 0 <= A <= B <= {MAX_QUEUE} and at most {MAX_WORKERS} queues",
    help="The exact queues, one worker each, instead of --nfqueue-id and --workers. It cannot be combined with them. If flags, "
    "environment or file give one form, the other form is ignored at every lower precedence.",
    group=OptionGroup.QUEUES,
)
FANOUT: Option[bool] = Option(
    name="fanout",
    parse=boolean,
    default="true",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Select the queue by the CPU that processes the packet. false: by a hash of its two addresses.",
    group=OptionGroup.QUEUES,
    toml_type=bool,
)
TAKEOVER: Option[bool] = Option(
    name="takeover",
    parse=boolean,
    default="false",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Take over from a running agent of this network namespace with the same --run-dir, if there is one. The new agent starts "
    "beside it, on other queues if necessary, and replaces its rules in one step. The old agent then drains its queues and ends. "
    "No connection is lost, and none passes without a verdict.",
    group=OptionGroup.QUEUES,
    toml_type=bool,
)
DATAPLANE: Option[Dataplane] = Option(
    name="dataplane",
    parse=Dataplane,
    default="auto",
    metavar="FORM",
    allowed="auto, native or compat",
    help="Form of the queue rule. native: the queue statement of nftables. compat: the NFQUEUE target. auto: the first of the two that "
    "the kernel accepts.",
    group=OptionGroup.DATA_PLANE,
)
MARK_MASK: Option[int] = Option(
    name="mark-mask",
    parse=mark_mask,
    default="0x70",
    metavar="MASK",
    allowed="three adjacent bits of 32, such as 0x70",
    help="Bits of the packet mark that hold the state of a packet while it waits for a verdict. The agent restores the values that "
    "other software keeps in them.",
    group=OptionGroup.DATA_PLANE,
    toml_type=int,
)
CT_LABEL: Option[int] = Option(
    name="ct-label",
    parse=integer(0, ruleset.MAX_CT_LABEL),
    default=f"{ruleset.DEFAULT_CT_LABEL}",
    metavar="N",
    allowed=f"0 to {ruleset.MAX_CT_LABEL}",
    help=f"First of the {CONNECTION_LABEL_BITS} adjacent bits of the conntrack label that mark a connection as accepted. No other "
    "software may use these bits.",
    group=OptionGroup.DATA_PLANE,
    toml_type=int,
)
VERDICT_CACHE: Option[VerdictCacheMode] = Option(
    name="verdict-cache",
    parse=VerdictCacheMode,
    default="auto",
    metavar="MODE",
    allowed="auto, on or off",
    help="Cache repeated verdicts in the kernel, which then accepts or drops further connections of the same kind without a worker. "
    "These connections appear in counters only, not in the packet log. auto: on, unless --v is 2 or more.",
    group=OptionGroup.DATA_PLANE,
)
VERDICT_CACHE_TTL: Option[int] = Option(
    name="verdict-cache-ttl",
    parse=integer(1, MAX_VERDICT_TTL_S),
    default="60",
    metavar="SECONDS",
    allowed=f"1 to {MAX_VERDICT_TTL_S}",
    help="Lifetime of a cached verdict in seconds. A policy change takes effect at once, whatever the lifetime.",
    group=OptionGroup.DATA_PLANE,
    toml_type=int,
)
VERDICT_CACHE_SIZE: Option[int] = Option(
    name="verdict-cache-size",
    parse=integer(2, MAX_CACHED_VERDICTS),
    default="32768",
    metavar="N",
    allowed=f"2 to {MAX_CACHED_VERDICTS}",
    help="Maximum number of cached verdicts, half of them drops. Each needs about 200 bytes in the kernel and 500 in the supervisor.",
    group=OptionGroup.DATA_PLANE,
    toml_type=int,
)
RUN_DIR: Option[Path] = Option(
    name="run-dir",
    parse=run_directory,
    default="/run/netpolq",
    metavar="DIR",
    allowed="an absolute path of at most 95 bytes",
    help="Folder for the status socket, the metrics of the workers and the file of the newest snapshot.",
    group=OptionGroup.DATA_PLANE,
)
FAIL_OPEN: Option[bool] = Option(
    name="fail-open",
    parse=boolean,
    default="true",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Accept new connections when no worker can evaluate them (no agent, full queue). false: drop them.",
    group=OptionGroup.POLICY,
    toml_type=bool,
    upstream=True,
)
POD_CIDRS: Option[tuple[ranges.PodRange, ...]] = Option(
    name="pod-cidrs",
    parse=ranges.parse_ranges,
    default="",
    metavar="CIDRS",
    allowed=f"a comma-separated list of {ranges.ALLOWED}",
    help="Address ranges of this node's pods. In fail-closed mode, if no rules of an earlier agent exist, the agent drops the traffic of "
    "these pods until the first policies are in force (see `netpolq help hold`). Empty: the ranges of the CNI configuration, "
    "and in a cluster also spec.podCIDRs of the Node.",
    group=OptionGroup.POLICY,
)
CNI_CONF_DIR: Option[Path | None] = Option(
    name="cni-conf-dir",
    parse=path_or_none,
    default=str(cni.CONF_DIR),
    metavar="DIR",
    allowed="a folder",
    help="Folder of the CNI configuration, which provides the pod ranges if --pod-cidrs is empty. Empty: the agent does not read it.",
    group=OptionGroup.POLICY,
)
STRICT_MODE: Option[bool] = Option(
    name="strict-mode",
    parse=boolean,
    default="true",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Evaluate established connections again when a policy or a pod changes, and drop the packets of those that are now denied. "
    "false: an accepted connection stays accepted until it ends.",
    group=OptionGroup.POLICY,
    toml_type=bool,
    upstream=True,
)
NODE_EGRESS: Option[NodeEgress] = Option(
    name="node-egress",
    parse=NodeEgress,
    default="judge",
    metavar="MODE",
    allowed="judge or allow",
    help="Connections from a pod to its own node. judge: apply the pod's egress policies. allow: accept all of them.",
    group=OptionGroup.POLICY,
)
METRICS_BIND_ADDRESS: Option[BindAddress] = Option(
    name="metrics-bind-address",
    parse=BindAddress.parse,
    default=":9080",
    metavar="ADDRESS",
    allowed="HOST:PORT with a port from 0 to 65535, an IPv6 host in brackets, or :PORT for all addresses",
    help="Address that serves /metrics, /healthz and /readyz.",
    group=OptionGroup.OBSERVABILITY,
    upstream=True,
)
VERBOSITY: Option[int] = Option(
    name="v",
    parse=integer(0, MAX_VERBOSITY),
    default="0",
    metavar="N",
    allowed=f"0 to {MAX_VERBOSITY}",
    help="Log verbosity. From 1: a line for each version in force, with its changes. From 2: a line for each first packet. From 4: "
    "debug lines.",
    group=OptionGroup.OBSERVABILITY,
    toml_type=int,
    upstream=True,
)
LOG_DENIED: Option[bool] = Option(
    name="log-denied",
    parse=boolean,
    default="false",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Log each denied first packet. The rate is limited for each pair of source and destination, so that one pair cannot hide "
    "others. The kernel does not cache denials then (--verdict-cache), so that workers see all of them.",
    group=OptionGroup.OBSERVABILITY,
    toml_type=bool,
)
LOGGING_FORMAT: Option[LoggingFormat] = Option(
    name="logging-format",
    parse=LoggingFormat,
    default="text",
    metavar="FORMAT",
    allowed="text or json",
    help="Format of the log lines on standard error.",
    group=OptionGroup.OBSERVABILITY,
)
NETFILTER_BUG_1766_FIX: Option[bool | None] = Option(
    name="netfilter-bug-1766-fix",
    parse=boolean_or_auto,
    default="auto",
    metavar="BOOL",
    allowed=f"auto, {_BOOLEAN}",
    help="Evaluate DNS over UDP before routing, so that netfilter bug 1766 does not drop queries that one socket sends at the same time. "
    "auto: if the kernel has the bug.",
    group=OptionGroup.COMPATIBILITY,
    toml_type=bool,
    upstream=True,
)
DISABLE_NRI: Option[bool] = Option(
    name="disable-nri",
    parse=boolean,
    default="false",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Accepted for compatibility with the kube-network-policies agent. No effect: this agent never queries the container runtime.",
    group=OptionGroup.COMPATIBILITY,
    toml_type=bool,
    upstream=True,
)

OPTIONS: tuple[Option[object], ...] = (
    MANIFESTS,
    KUBECONFIG,
    HOSTNAME_OVERRIDE,
    CONFIG,
    NFQUEUE_ID,
    WORKERS,
    QUEUE_BALANCE,
    FANOUT,
    TAKEOVER,
    DATAPLANE,
    MARK_MASK,
    CT_LABEL,
    VERDICT_CACHE,
    VERDICT_CACHE_TTL,
    VERDICT_CACHE_SIZE,
    RUN_DIR,
    FAIL_OPEN,
    POD_CIDRS,
    CNI_CONF_DIR,
    STRICT_MODE,
    NODE_EGRESS,
    METRICS_BIND_ADDRESS,
    VERBOSITY,
    LOG_DENIED,
    LOGGING_FORMAT,
    NETFILTER_BUG_1766_FIX,
    DISABLE_NRI,
)
"""All options, in the order of `--help` and of the sample file."""

FILE_OPTIONS: tuple[Option[object], ...] = tuple(option for option in OPTIONS if option is not CONFIG)
"""The options that a file may set: all but the path of the file."""
