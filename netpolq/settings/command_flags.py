"""The flags of all commands other than `run`. Only flags that `run` also has are read from the environment."""

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
    help="Format of the output.",
    group=OptionGroup.COMMAND,
    letter="o",
)
SOURCE: Option[str] = Option(
    name="src",
    parse=plain_text,
    default="",
    metavar="ENDPOINT",
    allowed="an IP address or NAMESPACE/POD; :PORT may follow and is ignored",
    help="Client of the connection.",
    group=OptionGroup.COMMAND,
)
DESTINATION: Option[str] = Option(
    name="dst",
    parse=plain_text,
    default="",
    metavar="ENDPOINT",
    allowed="an IP address or NAMESPACE/POD; :PORT may follow, as in [fd00::1]:80",
    help="Server of the connection.",
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
    help="Destination port. TCP, UDP and SCTP need one, here or in --dst.",
    group=OptionGroup.COMMAND,
)
EXPECT: Option[str] = Option(
    name="expect",
    parse=lambda text: one_of("allow", "deny")(text) if text else "",
    default="",
    metavar="VERDICT",
    allowed="allow or deny",
    help="Exit with code 8 if the verdict differs (with --packets: the verdict of any line). For tests of policies.",
    group=OptionGroup.COMMAND,
)
MANIFESTS_TO_READ: Option[Path | None] = replace(
    MANIFESTS,
    metavar="PATH",
    allowed="a folder or a file",
    help="Folder with namespaces, pods and network policies as *.yaml, *.yml or *.json, at any depth; or one such file of any name.",
    group=OptionGroup.COMMAND,
)
PACKETS: Option[str] = Option(
    name="packets",
    parse=plain_text,
    default="",
    metavar="FILE",
    allowed="a file, or - for standard input",
    help='Evaluate many packets, one JSON line each: {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "TCP", "dport": 80}. '
    "dport may be the name of a port of the destination pod. The output has one JSON line for each, in the same order, with the same "
    "four fields. For a named port, dport is the number and dport_name the name.",
    group=OptionGroup.COMMAND,
)
ENGINE: Option[str] = Option(
    name="engine",
    parse=one_of("snapshot", "reference"),
    default="snapshot",
    metavar="NAME",
    allowed="snapshot or reference",
    help="Evaluator. snapshot: the encoded snapshot, as workers read it. reference: the slow reference implementation.",
    group=OptionGroup.COMMAND,
)

STATUS_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, OUTPUT)
CLEANUP_OPTIONS: tuple[Option[object], ...] = (RUN_DIR, CT_LABEL)
QUESTION: tuple[Option[object], ...] = (SOURCE, DESTINATION, PROTOCOL, PORT)
EXPLAIN_OPTIONS: tuple[Option[object], ...] = (MANIFESTS_TO_READ, *QUESTION, PACKETS, EXPECT, ENGINE, OUTPUT)
