"""The flags of all commands other than `run`. Only flags that `run` also has are read from the environment."""

from dataclasses import replace

from netpolq.enums import PROTOCOL_NAMES, Protocol
from netpolq.settings.definitions import CNI_CONF_DIR, CT_LABEL, KUBECONFIG, MANIFESTS, POD_CIDRS, RUN_DIR
from netpolq.settings.options import Option, OptionGroup
from netpolq.settings.ui_access_flags import ACCESS_GROUP, AGENT_TLS_GROUP
from netpolq.settings.value_types import (
    BIND_ADDRESS,
    BOOLEAN,
    DURATION,
    Completion,
    durations,
    integers,
    optional,
    paths,
    text,
    words,
)

OUTPUT = Option(
    name="output", value_type=words("text", "json", metavar="FORMAT"), default="text", help="Format of the output.", letter="o"
)
SOURCE = Option(
    name="src",
    value_type=text(
        metavar="ENDPOINT",
        allowed="an IP address, NAMESPACE/POD or KIND/NAMESPACE/NAME of a workload; :PORT may follow and is ignored",
    ),
    default="",
    help="Client of the connection.",
)
DESTINATION = Option(
    name="dst",
    value_type=text(
        metavar="ENDPOINT",
        allowed="an IP address, NAMESPACE/POD, KIND/NAMESPACE/NAME of a Service or workload, or a domain name; :PORT may follow, as in "
        "[fd00::1]:80",
    ),
    default="",
    help="Server of the connection.",
)
PROTOCOL = Option(
    name="protocol",
    value_type=replace(
        text(metavar="NAME", allowed=f"{', '.join(PROTOCOL_NAMES.values())} or a number from 0 to 255"),
        choices=tuple(PROTOCOL_NAMES.values()),
    ),
    default="TCP",
    help="Protocol of the packet.",
)
PORT = Option(
    name="port",
    value_type=text(metavar="PORT", allowed="0 to 65535, or the name of a port of the destination"),
    default="",
    help="Destination port. TCP, UDP and SCTP need one, here or in --dst, unless the destination is a Service with one port.",
)
VIA_SERVICE = Option(
    name="via-service",
    value_type=BOOLEAN,
    default="false",
    help="The client uses the address of a Service. This matters if the Service leads back to the client itself: the node sees that "
    "connection, and the Admin and Baseline tiers apply. What a pod sends to its own address never leaves the pod.",
)
NAMES = Option(
    name="name",
    value_type=text(
        metavar="NAME=ADDRESS", allowed="a domain name, =, and an IP address that it resolves to; several separated by commas"
    ),
    default="",
    help="A learned name, for rules with domainNames. May be repeated. It counts beside those that the agent has learned from DNS "
    "answers. This command asks no server.",
    is_list=True,
)
BUNDLE_FILE = Option(
    name="output",
    value_type=paths(metavar="FILE", allowed="a file that does not exist, or - for standard output", completion=Completion.FILES),
    default="",
    help="File of the archive (mode 0600). An existing file is never overwritten. Empty: netpolq-support-HOST-TIME.tar.gz in the current "
    "folder, with the time in UTC.",
    letter="o",
)
BUNDLE_LOG = Option(
    name="log",
    value_type=paths(metavar="FILE", allowed="a regular file", completion=Completion.FILES),
    default="",
    help="File with log lines of the agent, whose last lines (at most 1 MiB) are added. Empty: no log is added.",
)
EXPECT: Option[str] = Option(
    name="expect",
    value_type=optional(words("allow", "deny", metavar="VERDICT"), ""),
    default="",
    help="Exit with code 8 if the verdict differs (with --packets: of any line; with a --dst of several addresses: of any of them). For "
    "tests of policies.",
)
MANIFESTS_TO_READ = replace(
    MANIFESTS,
    value_type=paths(metavar="PATH", allowed="a folder or a file", completion=Completion.FILES),
    help="Folder with namespaces, pods and network policies as *.yaml, *.yml or *.json, at any depth; or one such file of any name.",
)
CLUSTER = replace(
    KUBECONFIG,
    value_type=text(metavar="FILE", allowed="a path, or several separated by colons", completion=Completion.FILES),
    help="Kubeconfig file of a cluster whose API server is asked once. ~ is the home folder. The user needs the verb list of namespaces, "
    "pods and networkpolicies, and of cluster-wide policies where the cluster has them.",
    upstream=False,
)
CONTEXT = Option(
    name="context",
    value_type=text(metavar="NAME", allowed="the name of a context in the file of --kubeconfig"),
    default="",
    help="Context of the kubeconfig. Empty: its current one.",
)
PACKETS = Option(
    name="packets",
    value_type=text(metavar="FILE", allowed="a file, or - for standard input", completion=Completion.FILES),
    default="",
    help='Evaluate many packets, one JSON line each: {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "TCP", "dport": 80}. '
    "dport may be the name of a port of the destination pod; via_service may be true. The output has one JSON line for each, in the "
    "same order, with the same fields. For a named port, dport is the number and dport_name the name.",
)
ENGINE = Option(
    name="engine",
    value_type=words("snapshot", "reference", metavar="NAME"),
    default="snapshot",
    help="Evaluator. snapshot: the encoded snapshot, as workers read it. reference: the slow reference implementation.",
)
GROUP_BY = Option(
    name="by",
    value_type=words("workload", "namespace", metavar="GROUP"),
    default="workload",
    help="What rows and columns are.",
)
ONE_PORT: Option[int | None] = Option(
    name="port",
    value_type=optional(integers(1, 65535, metavar="PORT"), None),
    default="",
    help="Show this destination port only, of TCP or of --protocol.",
)
TRANSPORT: Option[str] = Option(
    name="protocol",
    value_type=optional(words(*(protocol.name for protocol in Protocol), metavar="NAME"), ""),
    default="",
    help="Show this protocol only. Without it: every protocol, or TCP with --port.",
)
MATRIX_OUTPUT = replace(
    OUTPUT,
    value_type=words("text", "markdown", "csv", "json", metavar="FORMAT"),
    help="Format of the output. In text, columns have the numbers of the rows.",
)
NEW_HAS = Option(
    name="new-has",
    value_type=words("everything", "changes", "policies", metavar="WHAT"),
    default="everything",
    help="What NEW has. changes: objects that are applied to OLD, each in place of the one of its name; everything else is that of OLD. "
    "policies: the same, and NEW has all NetworkPolicies of each namespace of which it has one or the Namespace, and all cluster-wide "
    "policies if it has one.",
)
_SWITCH = replace(BOOLEAN, choices=())
FLOWS = Option(
    name="flows",
    value_type=text(metavar="FILE", allowed="a file, or - for standard input", completion=Completion.FILES),
    default="",
    help="Flow records, one JSON object a line. Empty: the agent of this node is asked for those of its last hour.",
)
PODS_TO_READ = replace(
    MANIFESTS_TO_READ,
    help="Folder or file of manifests with further pods: selectors do not select them, and rules name ports by the names that they "
    "have. Its policies are not evaluated.",
)
OF_NAMESPACE = Option(
    name="namespace",
    value_type=text(metavar="NAME", allowed="the name of a namespace"),
    default="",
    help="Recommend policies for the workloads of this namespace only. Empty: of all namespaces.",
)
SEEN_SINCE: Option[int | None] = Option(
    name="since",
    value_type=optional(DURATION, None),
    default="",
    help="Use only flows that were last seen in this time before the newest record. Empty: all.",
)
OF_DIRECTION = Option(
    name="direction",
    value_type=words("both", "ingress", "egress", metavar="DIRECTION"),
    default="both",
    help="The policies isolate pods in this direction.",
)
INCLUDE_DENIED = Option(
    name="include-denied",
    value_type=BOOLEAN,
    default="false",
    help="Allow denied connections, too. Without it, only what was accepted is allowed.",
)
FOR_AUDIT = Option(
    name="audit",
    value_type=BOOLEAN,
    default="false",
    help="Give every policy the annotation policy.netpolq.io/enforcement: audit, with which it is not enforced yet.",
)
BY_DOMAIN_NAMES = Option(
    name="domain-names",
    value_type=BOOLEAN,
    default="false",
    help="Allow egress to addresses with learned names by these names, in ClusterNetworkPolicies of the Admin tier. Without it, the "
    "names are comments beside the addresses.",
)
RECOMMEND_OUTPUT = replace(
    OUTPUT,
    value_type=words("yaml", "json", metavar="FORMAT"),
    default="yaml",
    help="Format of the output. json: one List without comments; the header is on standard error.",
)
HOLD_SWITCHES = (
    Option(name="print", value_type=_SWITCH, default="", help="Print the nft script and change nothing."),
    Option(name="release", value_type=_SWITCH, default="", help="Remove the hold."),
    Option(name="force", value_type=_SWITCH, default="", help="Install the hold even if an agent's table is in place."),
)

FOLLOW = Option(
    name="follow",
    value_type=_SWITCH,
    default="false",
    help="Show flows as they come, until Ctrl-C: on a terminal a table of the newest ones, otherwise a line for each.",
    letter="f",
)
SINCE = Option(
    name="since",
    value_type=durations(3600),
    default="5m",
    help="How far back. Agents keep an hour. With --follow and without this flag: from now on.",
)
DENIED = Option(
    name="denied",
    value_type=_SWITCH,
    default="false",
    help="Only connections that were denied, or that policies in audit would deny.",
)
FLOW_POD = Option(
    name="pod",
    value_type=text(metavar="POD", allowed="NAMESPACE/NAME, where NAME may end with *"),
    default="",
    help="Only flows from or to this pod.",
)
FLOW_NAMESPACE = Option(
    name="namespace",
    value_type=text(metavar="NAMESPACE", allowed="the name of a namespace"),
    default="",
    help="Only flows from or to pods of this namespace.",
    letter="n",
)
_FLOW_END = text(metavar="END", allowed="NAMESPACE, NAMESPACE/NAME, an address, a range of addresses or a domain name")
FLOW_SOURCE = Option(name="from", value_type=_FLOW_END, default="", help="Only flows from there. NAME of a pod may end with *.")
FLOW_DESTINATION = Option(
    name="to",
    value_type=_FLOW_END,
    default="",
    help="Only flows to there. A domain name is one that policies use, or *. and a name.",
)
FLOW_POLICY = Option(
    name="policy",
    value_type=text(metavar="POLICY", allowed="NAMESPACE/NAME, or the name of a cluster-wide policy"),
    default="",
    help="Only flows that this policy decided, or would have decided in audit.",
)
FLOW_PORT = Option(
    name="port",
    value_type=text(metavar="PORT", allowed="PORT, PORT/PROTOCOL or PROTOCOL, as in 443, 53/UDP or ICMP"),
    default="",
    help="Only flows to this port of the destination, or of this protocol.",
)
FLOW_OUTPUT = replace(
    OUTPUT,
    value_type=optional(words("text", "wide", "json", "raw", metavar="FORMAT"), ""),
    default="",
    help="Format of the output. text: a table with a line for each flow. wide: with addresses, node, first moment and traffic. json: a "
    "JSON line for each flow and window of 15 s. raw: the agent's answers as they are, for programs that also want their first lines. "
    "Without this flag: text on a terminal, otherwise json.",
)
CLUSTER_KUBECONFIG = Option(
    name="kubeconfig",
    value_type=text(metavar="FILE", allowed="a path", completion=Completion.FILES),
    default="",
    help="Read the agents of all nodes through the API server of this kubeconfig, instead of the agent of this node.",
)
CLUSTER_CONTEXT = Option(
    name="context",
    value_type=text(metavar="NAME", allowed="the name of a context"),
    default="",
    help="Context of the kubeconfig. Given without --kubeconfig: that of the variable KUBECONFIG, or else ~/.kube/config.",
)
AGENT_NAMESPACE = Option(
    name="agent-namespace",
    value_type=text(metavar="NAMESPACE", allowed="the name of a namespace"),
    default="kube-system",
    help="Namespace of the agents' pods.",
)
AGENT_SELECTOR = Option(
    name="agent-selector",
    value_type=text(metavar="SELECTOR", allowed="a label selector"),
    default="app.kubernetes.io/name=netpolq",
    help="Labels of the agents' pods.",
)
FLOW_NODES = Option(
    name="node",
    value_type=text(metavar="NODE", allowed="the name of a node; several separated by commas"),
    default="",
    help="Read only the agents of these nodes. May be repeated.",
    is_list=True,
)
AGENT_TIMEOUT = Option(
    name="timeout",
    value_type=durations(600),
    default="30s",
    help="How long an agent may take to connect, and may be silent.",
)

UI_LISTEN = Option(
    name="listen",
    value_type=BIND_ADDRESS,
    default="127.0.0.1:8080",
    help="Address on which the page is served. With port 0 the kernel chooses one.",
)
UI_SOCKETS = Option(
    name="agent",
    value_type=text(
        metavar="SOCKET", allowed="the path of a status socket; several separated by commas", completion=Completion.FILES
    ),
    default="",
    help="Status socket of an agent of this machine. May be repeated. Empty: the one in --run-dir.",
    is_list=True,
)
UI_DEMO = Option(
    name="demo",
    value_type=_SWITCH,
    default="false",
    help="Show a made-up shop instead of an agent. Needs no privileges and no cluster.",
)

STATUS_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, OUTPUT)
NAMES_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, OUTPUT)
PODS_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, OUTPUT)
FLOW_GROUPS = (
    OptionGroup("What to show", (FOLLOW, SINCE, FLOW_OUTPUT)),
    OptionGroup(
        "Which flows; all of these must hold",
        (DENIED, FLOW_POD, FLOW_NAMESPACE, FLOW_SOURCE, FLOW_DESTINATION, FLOW_POLICY, FLOW_PORT),
    ),
    OptionGroup(
        "Where from",
        (RUN_DIR, CLUSTER_KUBECONFIG, CLUSTER_CONTEXT, AGENT_NAMESPACE, AGENT_SELECTOR, FLOW_NODES, AGENT_TIMEOUT),
    ),
)
FLOWS_OPTIONS: tuple[Option[object], ...] = tuple(option for group in FLOW_GROUPS for option in group.options)
UI_GROUPS = (
    OptionGroup("The page", (UI_LISTEN,)),
    ACCESS_GROUP,
    OptionGroup(
        "What is shown; without these flags the agent of this node",
        (
            RUN_DIR,
            UI_SOCKETS,
            CLUSTER_KUBECONFIG,
            CLUSTER_CONTEXT,
            AGENT_NAMESPACE,
            AGENT_SELECTOR,
            FLOW_NODES,
            AGENT_TIMEOUT,
            UI_DEMO,
        ),
    ),
    AGENT_TLS_GROUP,
)
UI_OPTIONS: tuple[Option[object], ...] = tuple(option for group in UI_GROUPS for option in group.options)
SUPPORT_BUNDLE_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, BUNDLE_FILE, BUNDLE_LOG)
CLEANUP_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, CT_LABEL)
HOLD_OPTIONS: tuple[Option[object], ...] = (POD_CIDRS, CNI_CONF_DIR, CT_LABEL, *HOLD_SWITCHES)
"""For the completion: `netpolq.hold` has its own parser and help page, since it imports nothing of the agent."""
QUESTION: tuple[Option[object], ...] = (SOURCE, DESTINATION, PROTOCOL, PORT, VIA_SERVICE)
MATRIX_OPTIONS: tuple[Option[object], ...] = (
    *(MANIFESTS_TO_READ, CLUSTER, CONTEXT, RUN_DIR),
    *(GROUP_BY, ONE_PORT, TRANSPORT, MATRIX_OUTPUT),
)
SEEN_FLOWS = replace(
    FLOWS,
    help="Flow records, one JSON object a line: compare only connections that were seen. Empty: all connections.",
)
SEEN_IN_AGENTS: Option[int | None] = Option(
    name="since",
    value_type=optional(durations(3600), None),
    default="",
    help="Compare only connections that were seen in this last time. The agents of the cluster tell them with --kubeconfig, as they do "
    "for `netpolq flows`, otherwise the agent of this node. Agents keep an hour. Not together with --flows.",
)
AGENTS_CONTEXT = replace(
    CONTEXT,
    help="Context of the kubeconfig whose agents are asked (--since). Empty: the one of OLD if OLD is a cluster, otherwise that of NEW, "
    "otherwise the current one.",
)
DIFF_GROUPS = (
    OptionGroup("", (CLUSTER, RUN_DIR, NEW_HAS, OUTPUT)),
    OptionGroup("Only connections that were seen", (SEEN_FLOWS, SEEN_IN_AGENTS)),
    OptionGroup("Which agents --since asks", (AGENTS_CONTEXT, AGENT_NAMESPACE, AGENT_SELECTOR, FLOW_NODES, AGENT_TIMEOUT)),
)
DIFF_OPTIONS: tuple[Option[object], ...] = tuple(option for group in DIFF_GROUPS for option in group.options)
EXPLAIN_OPTIONS: tuple[Option[object], ...] = (
    MANIFESTS_TO_READ,
    CLUSTER,
    CONTEXT,
    RUN_DIR,
    *QUESTION,
    NAMES,
    PACKETS,
    EXPECT,
    ENGINE,
    OUTPUT,
)
RECOMMEND_OPTIONS: tuple[Option[object], ...] = (
    *(FLOWS, RUN_DIR, OF_NAMESPACE, SEEN_SINCE, PODS_TO_READ, OF_DIRECTION),
    *(INCLUDE_DENIED, BY_DOMAIN_NAMES, FOR_AUDIT, RECOMMEND_OUTPUT),
)
