"""The table of options of `netpolq run`: names, defaults, what is allowed, and what each is for."""

from pathlib import Path

from netpolq.enums import CONNECTION_LABEL_BITS, Dataplane, LoggingFormat, NodeEgress, VerdictCacheMode
from netpolq.hold import cni, ranges, ruleset
from netpolq.settings.options import Option, OptionGroup
from netpolq.settings.parsers import (
    MAX_CACHED_VERDICTS,
    MAX_QUEUE,
    MAX_VERDICT_TTL_S,
    MAX_WORKERS,
    BindAddress,
    QueueRange,
    bind_address,
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
    help="Folder with namespaces, pods and network policies as *.yaml, *.yml or *.json, at any depth; changes are followed. Without "
    "it the cluster is watched.",
    group=OptionGroup.SOURCE,
)
KUBECONFIG: Option[str] = Option(
    name="kubeconfig",
    parse=plain_text,
    default="",
    metavar="FILE",
    allowed="a path",
    help="Access to the Kubernetes API. Without it and without --manifests: the files in the variable KUBECONFIG, or else the service "
    "account of the pod the agent runs in. ~ is the home folder.",
    group=OptionGroup.SOURCE,
    upstream=True,
)
HOSTNAME_OVERRIDE: Option[str] = Option(
    name="hostname-override",
    parse=host_name,
    default="",
    metavar="NAME",
    allowed="a node name of letters, digits, '.', '-' and '_', or nothing",
    help="Name of this node as in spec.nodeName of its pods; empty: the host name. Either is put in lower case, as the kubelet does.",
    group=OptionGroup.SOURCE,
    upstream=True,
)
CONFIG: Option[Path | None] = Option(
    name="config",
    parse=path_or_none,
    default="",
    metavar="FILE",
    allowed="a TOML file",
    help="TOML file with any of these settings, keyed by flag name without dashes in front.",
    group=OptionGroup.SOURCE,
)
NFQUEUE_ID: Option[int] = Option(
    name="nfqueue-id",
    parse=integer(0, MAX_QUEUE),
    default="100",
    metavar="N",
    allowed=f"0 to {MAX_QUEUE}",
    help="Number of the first queue; worker k serves queue N+k.",
    group=OptionGroup.QUEUES,
    natural=int,
    upstream=True,
)
WORKERS: Option[int | None] = Option(
    name="workers",
    parse=worker_count,
    default="auto",
    metavar="N",
    allowed=f"auto or 1 to {MAX_WORKERS}",
    help="Number of workers, each a process with a queue of its own; auto: one for each CPU that the agent may be scheduled on and that "
    "its CPU limit pays for, at most 16.",
    group=OptionGroup.QUEUES,
    natural=int,
)
QUEUE_BALANCE: Option[QueueRange | None] = Option(
    name="queue-balance",
    parse=queue_range,
    default="",
    metavar="A:B",
    allowed=f"A:B with 0 <= A <= B <= {MAX_QUEUE} and at most {MAX_WORKERS} queues",
    help="The exact queues, one worker each, instead of --nfqueue-id and --workers. Given beside one of them it is refused; where one "
    "place of higher precedence gives either form, lower places have no say in the other.",
    group=OptionGroup.QUEUES,
)
FANOUT: Option[bool] = Option(
    name="fanout",
    parse=boolean,
    default="true",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Choose the queue by the CPU a packet is on; false: by a hash of its two addresses.",
    group=OptionGroup.QUEUES,
    natural=bool,
)
TAKEOVER: Option[bool] = Option(
    name="takeover",
    parse=boolean,
    default="false",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Take over from an agent that runs in this network namespace with the same --run-dir, if there is one: get ready beside it, "
    "on other queues if need be, put the own rules in place in one step, and have it drain its queues and leave. "
    "No connection is lost or passes unjudged.",
    group=OptionGroup.QUEUES,
    natural=bool,
)
DATAPLANE: Option[Dataplane] = Option(
    name="dataplane",
    parse=Dataplane,
    default="auto",
    metavar="FORM",
    allowed="auto, native or compat",
    help="Form of the queue rule: native is nftables' own statement, compat the NFQUEUE target; auto: the first that the kernel takes.",
    group=OptionGroup.DATA_PLANE,
)
MARK_MASK: Option[int] = Option(
    name="mark-mask",
    parse=mark_mask,
    default="0x70",
    metavar="MASK",
    allowed="three adjacent bits of 32, such as 0x70",
    help="Bits of the packet mark that hold the state of a packet while it waits for a verdict. What other software keeps in them is put "
    "back.",
    group=OptionGroup.DATA_PLANE,
    natural=int,
)
CT_LABEL: Option[int] = Option(
    name="ct-label",
    parse=integer(0, ruleset.MAX_CT_LABEL),
    default=f"{ruleset.DEFAULT_CT_LABEL}",
    metavar="N",
    allowed=f"0 to {ruleset.MAX_CT_LABEL}",
    help=f"First of the {CONNECTION_LABEL_BITS} adjacent bits of a connection's label that say it was accepted; no other software may "
    "use them.",
    group=OptionGroup.DATA_PLANE,
    natural=int,
)
VERDICT_CACHE: Option[VerdictCacheMode] = Option(
    name="verdict-cache",
    parse=VerdictCacheMode,
    default="auto",
    metavar="MODE",
    allowed="auto, on or off",
    help="Keep decisions that are asked for again in the kernel, so that further connections like these pass, or are dropped, without "
    "a worker. Such connections show in counters only, not in the log of packets; auto: on, unless --v is 2 or more.",
    group=OptionGroup.DATA_PLANE,
)
VERDICT_CACHE_TTL: Option[int] = Option(
    name="verdict-cache-ttl",
    parse=integer(1, MAX_VERDICT_TTL_S),
    default="60",
    metavar="SECONDS",
    allowed=f"1 to {MAX_VERDICT_TTL_S}",
    help="Seconds after which a decision in the kernel is asked for anew. A change of policy does not wait for that.",
    group=OptionGroup.DATA_PLANE,
    natural=int,
)
VERDICT_CACHE_SIZE: Option[int] = Option(
    name="verdict-cache-size",
    parse=integer(2, MAX_CACHED_VERDICTS),
    default="32768",
    metavar="N",
    allowed=f"2 to {MAX_CACHED_VERDICTS}",
    help="Decisions kept in the kernel at most, half of them drops; each takes some 200 bytes there and 500 in the supervisor.",
    group=OptionGroup.DATA_PLANE,
    natural=int,
)
RUN_DIR: Option[Path] = Option(
    name="run-dir",
    parse=run_directory,
    default="/run/netpolq",
    metavar="DIR",
    allowed="an absolute path of at most 95 bytes",
    help="Folder for the status socket, the metrics of the workers and the image of the newest snapshot.",
    group=OptionGroup.DATA_PLANE,
)
FAIL_OPEN: Option[bool] = Option(
    name="fail-open",
    parse=boolean,
    default="true",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="What becomes of packets that nobody can judge (no agent, full queue): true lets them pass, false drops them.",
    group=OptionGroup.POLICY,
    natural=bool,
    upstream=True,
)
POD_CIDRS: Option[tuple[ranges.PodRange, ...]] = Option(
    name="pod-cidrs",
    parse=ranges.parse_ranges,
    default="",
    metavar="CIDRS",
    allowed=f"a comma-separated list of {ranges.ALLOWED}",
    help="Ranges of this node's pods, for the hold: in fail-closed mode, and where no rules of an earlier agent are in place, traffic of "
    "these pods is dropped until the first policies are in force (see `netpolq help hold`). Empty: as the CNI configuration "
    "names them, and in a cluster spec.podCIDRs of the Node.",
    group=OptionGroup.POLICY,
)
CNI_CONF_DIR: Option[Path | None] = Option(
    name="cni-conf-dir",
    parse=path_or_none,
    default=str(cni.CONF_DIR),
    metavar="DIR",
    allowed="a folder",
    help="Folder of the CNI configuration, which is read for pod ranges where --pod-cidrs names none; empty: it is not read.",
    group=OptionGroup.POLICY,
)
STRICT_MODE: Option[bool] = Option(
    name="strict-mode",
    parse=boolean,
    default="true",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Judge established connections again when a policy or a pod changes; those that are denied now get no further. false: what was "
    "accepted once goes on until it ends.",
    group=OptionGroup.POLICY,
    natural=bool,
    upstream=True,
)
NODE_EGRESS: Option[NodeEgress] = Option(
    name="node-egress",
    parse=NodeEgress,
    default="judge",
    metavar="WHAT",
    allowed="judge or allow",
    help="Connections of a pod to its own node: judge applies the pod's egress policies, allow lets all of them pass.",
    group=OptionGroup.POLICY,
)
METRICS_BIND_ADDRESS: Option[BindAddress] = Option(
    name="metrics-bind-address",
    parse=bind_address,
    default=":9080",
    metavar="ADDRESS",
    allowed="HOST:PORT with a port from 0 to 65535, an IPv6 host in brackets, or :PORT for all addresses",
    help="Where /metrics, /healthz and /readyz are served.",
    group=OptionGroup.OBSERVABILITY,
    upstream=True,
)
VERBOSITY: Option[int] = Option(
    name="v",
    parse=integer(0, 10),
    default="0",
    metavar="N",
    allowed="0 to 10",
    help="Verbosity of the log; from 1 on with a line for each version in force and what has changed, from 2 on for each first packet, "
    "from 4 on with debug lines.",
    group=OptionGroup.OBSERVABILITY,
    natural=int,
    upstream=True,
)
LOG_DENIED: Option[bool] = Option(
    name="log-denied",
    parse=boolean,
    default="false",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Write a line for each denied first packet, few for each pair of source and destination, so that one pair cannot hide others. "
    "Denials are then not kept in the kernel (--verdict-cache), so that workers see all of them.",
    group=OptionGroup.OBSERVABILITY,
    natural=bool,
)
LOGGING_FORMAT: Option[LoggingFormat] = Option(
    name="logging-format",
    parse=LoggingFormat,
    default="text",
    metavar="FORMAT",
    allowed="text or json",
    help="Shape of the log lines on standard error.",
    group=OptionGroup.OBSERVABILITY,
)
NETFILTER_BUG_1766_FIX: Option[bool | None] = Option(
    name="netfilter-bug-1766-fix",
    parse=boolean_or_auto,
    default="auto",
    metavar="BOOL",
    allowed=f"auto, {_BOOLEAN}",
    help="Judge DNS over UDP before routing, so that queries sent at the same time from one socket are not lost to netfilter bug 1766; "
    "auto: where the kernel has the bug.",
    group=OptionGroup.COMPATIBILITY,
    natural=bool,
    upstream=True,
)
DISABLE_NRI: Option[bool] = Option(
    name="disable-nri",
    parse=boolean,
    default="false",
    metavar="BOOL",
    allowed=_BOOLEAN,
    help="Do not ask the container runtime for pods. No effect yet, either way: the runtime is never asked.",
    group=OptionGroup.COMPATIBILITY,
    natural=bool,
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
"""In the order in which `--help` and the sample file show them."""

FILE_OPTIONS: tuple[Option[object], ...] = tuple(option for option in OPTIONS if option is not CONFIG)
"""What a file may set: all but the file's own path."""
