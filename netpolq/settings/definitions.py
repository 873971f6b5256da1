"""The options of `netpolq run`. Parsing, help, configuration file, manual page, completion and the table in the README come from here."""

from netpolq.enums import (
    CONNECTION_LABEL_BITS,
    Dataplane,
    DenyWith,
    FlowsMode,
    HoldUnknown,
    LoggingFormat,
    NodeEgress,
    PolicyMetrics,
    VerdictCacheMode,
)
from netpolq.hold import cni, ruleset
from netpolq.ipc.agent_settings import (
    MAX_CACHED_VERDICTS,
    MAX_CT_LABEL,
    MAX_DNS_SECONDS,
    MAX_FLOW_FILE_BYTES,
    MAX_FLOW_FILES,
    MAX_FLOW_RECORDS,
    MAX_HOLD_TIMEOUT_S,
    MAX_QUEUE,
    MAX_VERBOSITY,
    MAX_VERDICT_TTL_S,
    MIN_FLOW_FILE_BYTES,
    MIN_FLOW_RECORDS,
)
from netpolq.settings.options import Option, OptionGroup
from netpolq.settings.value_types import (
    ABSOLUTE_FILE,
    BIND_ADDRESS,
    BOOLEAN,
    BOOLEAN_OR_AUTO,
    DNS_NAME,
    DNS_SERVERS,
    FOLDER,
    HOST_NAME,
    INTERFACES,
    MARK_BITS,
    OPTIONAL_BIND_ADDRESS,
    POD_RANGES,
    QUEUE_RANGE,
    RECEIVER_URL,
    RESULTS_FOLDER,
    RUN_DIRECTORY,
    WORKER_COUNT,
    Completion,
    integers,
    modes,
    paths,
    text,
)

MANIFESTS = Option(
    name="manifests",
    value_type=FOLDER,
    default="",
    help="Folder with namespaces, pods and network policies as *.yaml, *.yml or *.json, at any depth. The agent watches it for changes. "
    "Empty: the agent watches the cluster.",
)
KUBECONFIG = Option(
    name="kubeconfig",
    value_type=text(metavar="FILE", allowed="a path", completion=Completion.FILES),
    default="",
    help="Kubeconfig file for access to the Kubernetes API. If this and --manifests are empty, the agent uses the files of the "
    "variable KUBECONFIG, or else the service account of its pod. ~ is the home folder.",
    upstream=True,
)
HOSTNAME_OVERRIDE = Option(
    name="hostname-override",
    value_type=HOST_NAME,
    default="",
    help="Name of this node, as in spec.nodeName of its pods. Empty: the host name. The agent converts both to lower case, as the kubelet "
    "does. Pods with another name there are not local. In a cluster the agent is ready only when a Node of this name exists.",
    upstream=True,
)
CONFIG = Option(
    name="config",
    value_type=paths(metavar="FILE", allowed="a TOML file", completion=Completion.FILES),
    default="",
    help="TOML file with any of these settings. The keys are flag names without the leading dashes. `netpolq config` prints such a file.",
)
NFQUEUE_ID = Option(
    name="nfqueue-id",
    value_type=integers(0, MAX_QUEUE),
    default="100",
    help="Number of the first queue. Worker k serves queue N+k.",
    upstream=True,
)
WORKERS = Option(
    name="workers",
    value_type=WORKER_COUNT,
    default="auto",
    help="Number of workers. Each worker is a process with its own queue. auto: one worker for each CPU that the agent can use (affinity "
    "and CPU limit), at most 16.",
)
QUEUE_BALANCE = Option(
    name="queue-balance",
    value_type=QUEUE_RANGE,
    default="",
    help="The exact queues, one worker each, instead of --nfqueue-id and --workers. It cannot be combined with them. If flags, "
    "environment or file give one form, the other form is ignored at every lower precedence.",
)
FANOUT = Option(
    name="fanout",
    value_type=BOOLEAN,
    default="true",
    help="Select the queue by the CPU that processes the packet. false: by a hash of its two addresses.",
)
TAKEOVER = Option(
    name="takeover",
    value_type=BOOLEAN,
    default="false",
    help="Take over from a running agent of this network namespace with the same --run-dir, if there is one. The new agent starts "
    "beside it, on other queues if necessary, and replaces its rules in one step. The old agent then drains its queues and ends. "
    "No connection is lost, and none passes without a verdict.",
)
DATAPLANE = Option(
    name="dataplane",
    value_type=modes(Dataplane, metavar="FORM"),
    default="auto",
    help="Form of the queue rule. native: the queue statement of nftables. compat: the NFQUEUE target through nft_compat. auto: the "
    "first of the two that the kernel accepts.",
)
MARK_MASK = Option(
    name="mark-mask",
    value_type=MARK_BITS,
    default="0x70",
    help="Three adjacent bits of the packet mark, for the state of a packet while it waits for a verdict. The agent restores the values "
    "that other software keeps in them.",
)
CT_LABEL = Option(
    name="ct-label",
    value_type=integers(0, MAX_CT_LABEL),
    default=f"{ruleset.DEFAULT_CT_LABEL}",
    help=f"First of the {CONNECTION_LABEL_BITS} adjacent bits of the conntrack label that mark a connection as accepted. No other "
    "software may use these bits.",
)
VERDICT_CACHE = Option(
    name="verdict-cache",
    value_type=modes(VerdictCacheMode, metavar="MODE"),
    default="auto",
    help="Cache repeated verdicts in the kernel, which then accepts or drops further connections of the same kind without a worker. "
    "These connections appear in counters only, not in the packet log. auto: on, unless --v is 2 or more.",
)
VERDICT_CACHE_TTL = Option(
    name="verdict-cache-ttl",
    value_type=integers(1, MAX_VERDICT_TTL_S, metavar="SECONDS"),
    default="60",
    help="Lifetime of a cached verdict in seconds. A policy change takes effect at once, whatever the lifetime.",
)
VERDICT_CACHE_SIZE = Option(
    name="verdict-cache-size",
    value_type=integers(2, MAX_CACHED_VERDICTS),
    default="32768",
    help="Maximum number of cached verdicts, half of them drops. Each needs about 200 bytes in the kernel and 500 in the supervisor.",
)
RUN_DIR = Option(
    name="run-dir",
    value_type=RUN_DIRECTORY,
    default="/run/netpolq",
    help="Folder for the status socket, the key for a takeover and the file of the newest snapshot. It must belong to the user of the "
    "agent and hold no symbolic links.",
)
FAIL_OPEN = Option(
    name="fail-open",
    value_type=BOOLEAN,
    default="true",
    help="Accept new connections when no worker can evaluate them (no agent, full queue). false: drop them.",
    upstream=True,
)
POD_CIDRS = Option(
    name="pod-cidrs",
    value_type=POD_RANGES,
    default="",
    help="Address ranges of this node's pods. In fail-closed mode, if no rules of an earlier agent exist, the agent drops the traffic of "
    "these pods until the first policies are in force (see `netpolq help hold`). Empty: the ranges of the CNI configuration, "
    "and in a cluster also spec.podCIDRs of the Node.",
)
CNI_CONF_DIR = Option(
    name="cni-conf-dir",
    value_type=FOLDER,
    default=str(cni.CONF_DIR),
    help="Folder of the CNI configuration, which provides the pod ranges if --pod-cidrs is empty. Empty: the agent does not read it.",
)
CNI_RESULTS = Option(
    name="cni-results",
    value_type=RESULTS_FOLDER,
    default="/var/lib/cni/results",
    help="Folder in which the container runtime keeps the results of CNI plug-ins. From there the agent knows the addresses of a new pod "
    "of this node before its first container starts. off, or a folder that does not exist: the agent learns them from the API only.",
)
HOLD_UNKNOWN = Option(
    name="hold-unknown",
    value_type=modes(HoldUnknown, metavar="MODE"),
    default="auto",
    help="The first packet of a connection waits while an address of a pod of this node is unknown: an address in --pod-cidrs or in "
    "spec.podCIDRs of the Node, or one at --pod-interfaces. auto: on, where one of these is known. on: the agent is not ready without.",
)
HOLD_TIMEOUT = Option(
    name="hold-timeout",
    value_type=integers(1, MAX_HOLD_TIMEOUT_S, metavar="SECONDS"),
    default="2",
    help="How long a packet may wait for an unknown address. Afterwards it is accepted (--fail-open) or dropped.",
)
HOLD_UNKNOWN_PEERS = Option(
    name="hold-unknown-peers",
    value_type=POD_RANGES,
    default="",
    help="Address ranges of the pods of all nodes. The first packet of a connection of an isolated pod also waits while no pod is known "
    "that has the peer's address in these ranges. Empty: an unknown peer is no pod. The ranges should hold no addresses of nodes.",
)
POD_INTERFACES = Option(
    name="pod-interfaces",
    value_type=INTERFACES,
    default="",
    help="Interfaces that lead to pods, such as cali* or eni*, for clusters whose Nodes name no pod ranges. See --hold-unknown.",
)
DNS_SERVER_ADDRESSES = Option(
    name="dns-servers",
    value_type=DNS_SERVERS,
    default="auto",
    help="DNS servers whose answers tell the addresses of domain names in policies. auto: the pods and addresses of the Service kube-dns "
    "in kube-system, and the name servers of the node.",
)
DNS_MIN_TTL = Option(
    name="dns-min-ttl",
    value_type=integers(0, MAX_DNS_SECONDS, metavar="SECONDS"),
    default="30",
    help="Minimum time to live of an address that was learned for a domain name.",
)
DNS_GRACE = Option(
    name="dns-grace",
    value_type=integers(0, MAX_DNS_SECONDS, metavar="SECONDS"),
    default="60",
    help="How long an address of a domain name stays in force after its time to live, for clients that keep addresses.",
)
STRICT_MODE = Option(
    name="strict-mode",
    value_type=BOOLEAN,
    default="true",
    help="Evaluate established connections again when a policy or a pod changes, and drop the packets of those that are now denied. "
    "false: an accepted connection stays accepted until it ends.",
    upstream=True,
)
NODE_EGRESS = Option(
    name="node-egress",
    value_type=modes(NodeEgress, metavar="MODE"),
    default="judge",
    help="Connections from a pod to its own node. judge: apply the pod's egress policies. allow: accept all of them.",
)
DENY_WITH = Option(
    name="deny-with",
    value_type=modes(DenyWith, metavar="MODE"),
    default="drop",
    help="What happens to denied packets. drop: nothing more, so clients wait until they time out. reject: the sender gets a TCP RST, or "
    "an ICMP error for other protocols, up to a rate. The annotation netpolq.io/deny-with of a policy or of a namespace comes first. "
    "Answers need CAP_NET_RAW.",
)
POLICY_STATUS = Option(
    name="policy-status",
    value_type=BOOLEAN,
    default="false",
    help="Write into status.conditions of cluster-wide policies whether they are in force as written. One agent of the cluster writes; the "
    "agents elect it by the Lease netpolq-policy-status in the namespace of their pods. No effect with --manifests.",
)
EVENTS = Option(
    name="events",
    value_type=BOOLEAN,
    default="false",
    help="Write Events about denied connections on the pods of this node whose policies deny them, or would in audit: at most 5 writes a "
    "second. Needs --flows. No effect with --manifests.",
)
AUDIT = Option(
    name="audit",
    value_type=BOOLEAN,
    default="false",
    help="Put all policies in audit on this node: what they would deny is reported (`netpolq flows --denied`) and passes. The annotation "
    "policy.netpolq.io/enforcement (audit or enforce) of a policy takes precedence, then that of its namespace.",
)
FLOW_EXPORT_FILE = Option(
    name="flow-export-file",
    value_type=ABSOLUTE_FILE,
    default="",
    help="File to which flow records are appended, one JSON object a line. Its folder must exist. Empty: they are not written.",
)
FLOW_EXPORT_FILE_MAX_BYTES = Option(
    name="flow-export-file-max-bytes",
    value_type=integers(MIN_FLOW_FILE_BYTES, MAX_FLOW_FILE_BYTES),
    default="67108864",
    help="Maximum size of the file of flow records. Before it would be larger, it becomes FILE.1, and FILE.1 becomes FILE.2.",
)
FLOW_EXPORT_FILE_KEEP = Option(
    name="flow-export-file-keep",
    value_type=integers(0, MAX_FLOW_FILES),
    default="4",
    help="Number of former files of flow records that are kept.",
)
FLOW_EXPORT_OTLP = Option(
    name="flow-export-otlp",
    value_type=RECEIVER_URL,
    default="",
    help="URL of an OpenTelemetry collector, or of another receiver of OTLP logs over HTTP, to which flow records are sent. Certificates, "
    "headers and attributes of the resource come from the variables OTEL_EXPORTER_OTLP_* and OTEL_RESOURCE_ATTRIBUTES. Empty: they are "
    "not sent.",
)
FLOW_EXPORT_OTLP_HEADERS_FILE = Option(
    name="flow-export-otlp-headers-file",
    value_type=ABSOLUTE_FILE,
    default="",
    help="File with headers for --flow-export-otlp, one `Name: value` a line, such as a token. It is read before each request.",
)
REPORT_BIND_ADDRESS = Option(
    name="report-bind-address",
    value_type=OPTIONAL_BIND_ADDRESS,
    default="",
    help="Address that serves flows, status and objects of this agent to `netpolq ui`, over TLS 1.3 and only to clients with a certificate "
    "of --report-tls-client-ca. Empty: the agent does not serve them.",
)
REPORT_TLS_CERTIFICATE = Option(
    name="report-tls-certificate",
    value_type=ABSOLUTE_FILE,
    default="",
    help="File with the certificate chain (PEM) of --report-bind-address. This file, the key and the client CA are read again when they "
    "change.",
)
REPORT_TLS_KEY = Option(
    name="report-tls-key",
    value_type=ABSOLUTE_FILE,
    default="",
    help="File with the private key (PEM, without a passphrase) of --report-tls-certificate.",
)
REPORT_TLS_CLIENT_CA = Option(
    name="report-tls-client-ca",
    value_type=ABSOLUTE_FILE,
    default="",
    help="File with the certificates (PEM) of the authorities that issue certificates to clients of --report-bind-address.",
)
REPORT_TLS_CLIENT_NAME = Option(
    name="report-tls-client-name",
    value_type=DNS_NAME,
    default="netpolq-ui",
    help="DNS name (subjectAltName) that the certificate of a client of --report-bind-address must have.",
)
METRICS_BIND_ADDRESS = Option(
    name="metrics-bind-address",
    value_type=BIND_ADDRESS,
    default=":9080",
    help="Address that serves /metrics, /healthz and /readyz.",
    upstream=True,
)
VERBOSITY = Option(
    name="v",
    value_type=integers(0, MAX_VERBOSITY),
    default="0",
    help="Log verbosity. From 1: a line for each version in force, with its changes. From 2: a line for each first packet "
    "(verdict, flow, pods, policy). From 4: debug lines.",
    upstream=True,
)
LOG_DENIED = Option(
    name="log-denied",
    value_type=BOOLEAN,
    default="false",
    help="Log each denied first packet. The rate is limited for each pair of source and destination, so that one pair cannot hide "
    "others. The kernel does not cache denials then (--verdict-cache), so that workers see all of them.",
)
FLOWS = Option(
    name="flows",
    value_type=modes(FlowsMode, metavar="WHICH"),
    default="on",
    help="Record the connections of isolated pods as flows, for `netpolq flows` and the metrics of policies: all, only denied ones, or "
    "none.",
)
FLOW_RECORDS = Option(
    name="flow-records",
    value_type=integers(MIN_FLOW_RECORDS, MAX_FLOW_RECORDS),
    default="50000",
    help="Flow records to keep at most, of windows of 15 s and of one hour, about 500 bytes each. When there are more, the oldest windows "
    "are dropped.",
)
FLOW_BYTES = Option(
    name="flow-bytes",
    value_type=BOOLEAN,
    default="true",
    help="Count packets and bytes of accepted flows while conntrack accounting is on (net.netfilter.nf_conntrack_acct=1, which the agent "
    "never sets). Needs --flows=on.",
)
POLICY_METRICS = Option(
    name="policy-metrics",
    value_type=modes(PolicyMetrics, metavar="LEVEL"),
    default="policy",
    help="Count connections in the metrics by the policies that decided them, by their rules too, or not. Needs --flows.",
)
LOGGING_FORMAT = Option(
    name="logging-format",
    value_type=modes(LoggingFormat, metavar="FORMAT"),
    default="text",
    help="Format of the log lines on standard error.",
)
NETFILTER_BUG_1766_FIX = Option(
    name="netfilter-bug-1766-fix",
    value_type=BOOLEAN_OR_AUTO,
    default="auto",
    help="Evaluate DNS over UDP before routing, so that netfilter bug 1766 does not drop queries that one socket sends at the same time. "
    "auto: if the kernel has the bug (before 6.12).",
    upstream=True,
)
DISABLE_NRI = Option(
    name="disable-nri",
    value_type=BOOLEAN,
    default="false",
    help="Accepted for compatibility with the kube-network-policies agent. No effect: this agent never queries the container runtime.",
    upstream=True,
)

# In the order of `--help`, of the configuration file and of the manual page.
GROUPS: tuple[OptionGroup, ...] = (
    OptionGroup("Source", (MANIFESTS, KUBECONFIG, HOSTNAME_OVERRIDE, CONFIG)),
    OptionGroup("Queues and workers", (NFQUEUE_ID, WORKERS, QUEUE_BALANCE, FANOUT, TAKEOVER)),
    OptionGroup("Data plane", (DATAPLANE, MARK_MASK, CT_LABEL, VERDICT_CACHE, VERDICT_CACHE_TTL, VERDICT_CACHE_SIZE, RUN_DIR)),
    OptionGroup("Policy behaviour", (FAIL_OPEN, POD_CIDRS, CNI_CONF_DIR, STRICT_MODE, NODE_EGRESS, DENY_WITH, AUDIT)),
    OptionGroup("New pods", (CNI_RESULTS, HOLD_UNKNOWN, HOLD_TIMEOUT, POD_INTERFACES, HOLD_UNKNOWN_PEERS)),
    OptionGroup("Domain names", (DNS_SERVER_ADDRESSES, DNS_MIN_TTL, DNS_GRACE)),
    OptionGroup(
        "Observability",
        (
            *(METRICS_BIND_ADDRESS, VERBOSITY, LOG_DENIED, FLOWS, FLOW_RECORDS, FLOW_BYTES, POLICY_METRICS, LOGGING_FORMAT),
            *(POLICY_STATUS, EVENTS),
        ),
    ),
    OptionGroup(
        "Export of flows",
        (
            FLOW_EXPORT_OTLP,
            FLOW_EXPORT_OTLP_HEADERS_FILE,
            FLOW_EXPORT_FILE,
            FLOW_EXPORT_FILE_MAX_BYTES,
            FLOW_EXPORT_FILE_KEEP,
        ),
    ),
    OptionGroup(
        "Report to netpolq ui",
        (REPORT_BIND_ADDRESS, REPORT_TLS_CERTIFICATE, REPORT_TLS_KEY, REPORT_TLS_CLIENT_CA, REPORT_TLS_CLIENT_NAME),
    ),
    OptionGroup("Compatibility", (NETFILTER_BUG_1766_FIX, DISABLE_NRI)),
)
OPTIONS: tuple[Option[object], ...] = tuple(option for group in GROUPS for option in group.options)
"""All options of `netpolq run`."""

FILE_OPTIONS: tuple[Option[object], ...] = tuple(option for option in OPTIONS if option is not CONFIG)
"""The options that a file may set: all but the path of the file."""
