"""The flags of the commands beside `run`; of these only those that `run` has too are read from the environment."""

from dataclasses import replace
from pathlib import Path

from netpolq.settings.definitions import CT_LABEL, MANIFESTS, RUN_DIR
from netpolq.settings.options import Option, OptionGroup
from netpolq.settings.parsers import one_of, plain_text

OUTPUT: Option[str] = Option(
    name="output",
    parse=one_of("text", "json"),
    default="text",
    metavar="FORMAT",
    allowed="text or json",
    help="Shape of the answer.",
    group=OptionGroup.COMMAND,
    letter="o",
)
SOURCE: Option[str] = Option(
    name="src",
    parse=plain_text,
    default="",
    metavar="WHO",
    allowed="an IP address or NAMESPACE/POD; :PORT may follow and makes no difference",
    help="Client: the end that opens the connection.",
    group=OptionGroup.COMMAND,
)
DESTINATION: Option[str] = Option(
    name="dst",
    parse=plain_text,
    default="",
    metavar="WHO",
    allowed="an IP address or NAMESPACE/POD; :PORT may follow, as in [fd00::1]:80",
    help="Server: the end that the connection is for.",
    group=OptionGroup.COMMAND,
)
PROTOCOL: Option[str] = Option(
    name="protocol",
    parse=plain_text,
    default="TCP",
    metavar="NAME",
    allowed="TCP, UDP, SCTP, ICMP, ICMPv6 or a number from 0 to 255",
    help="Protocol of the packet.",
    group=OptionGroup.COMMAND,
)
PORT: Option[str] = Option(
    name="port",
    parse=plain_text,
    default="",
    metavar="PORT",
    allowed="0 to 65535, or the name of a port of the destination pod",
    help="Destination port; needed with TCP, UDP and SCTP, here or behind --dst.",
    group=OptionGroup.COMMAND,
)
EXPECT: Option[str] = Option(
    name="expect",
    parse=lambda text: one_of("allow", "deny")(text) if text else "",
    default="",
    metavar="VERDICT",
    allowed="allow or deny",
    help="Exit code 8 unless this is the verdict (with --packets: on every line), for tests of policies.",
    group=OptionGroup.COMMAND,
)
MANIFESTS_TO_READ: Option[Path | None] = replace(
    MANIFESTS,
    metavar="PATH",
    allowed="a folder or a file",
    help="Folder with namespaces, pods and network policies as *.yaml, *.yml or *.json, at any depth; or one such file, whatever its name.",
    group=OptionGroup.COMMAND,
)
PACKETS: Option[str] = Option(
    name="packets",
    parse=plain_text,
    default="",
    metavar="FILE",
    allowed="a file, or - for standard input",
    help='Judge many packets instead, one JSON line each: {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "TCP", "dport": 80}. '
    "dport may be the name of a port of the destination pod. One JSON line answers each, in order, and repeats these four fields; "
    "beside the number of a named port, dport_name has the name.",
    group=OptionGroup.COMMAND,
)
ENGINE: Option[str] = Option(
    name="engine",
    parse=one_of("snapshot", "reference"),
    default="snapshot",
    metavar="NAME",
    allowed="snapshot or reference",
    help="What judges: the encoded snapshot, as workers read it, or the slow evaluator that is its yardstick.",
    group=OptionGroup.COMMAND,
)

STATUS_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, OUTPUT)
CLEANUP_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, CT_LABEL)
QUESTION: tuple[Option[object], ...] = (SOURCE, DESTINATION, PROTOCOL, PORT)
EXPLAIN_OPTIONS: tuple[Option[object], ...] = (MANIFESTS_TO_READ, *QUESTION, PACKETS, EXPECT, ENGINE, OUTPUT)
