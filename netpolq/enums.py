"""Enumerations that all layers share.

Their numbers are part of the snapshot layout and of the channel encoding: never reuse one.
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class Protocol(IntEnum):
    """Transport protocols a policy port can name. Values: IANA protocol numbers (`NetworkPolicyPort.protocol`)."""

    TCP = 6
    UDP = 17
    SCTP = 132


PROTOCOL_NAMES: Mapping[int, str] = {**{protocol.value: protocol.name for protocol in Protocol}, 1: "ICMP", 58: "ICMPv6"}
"""Names in output and in metrics, by IANA number."""


class Direction(IntEnum):
    """Direction of a policy, seen from the isolated pod (`NetworkPolicySpec.policyTypes`)."""

    EGRESS = 0
    INGRESS = 1

    @property
    def api_name(self) -> str:
        """The value in `policyTypes`."""
        return "Egress" if self is Direction.EGRESS else "Ingress"


class Verdict(IntEnum):
    """Verdict on a packet. Values: NF_DROP and NF_ACCEPT of linux/netfilter.h."""

    DROP = 0
    ACCEPT = 1


class AuditVerdict(StrEnum):
    """What would become of connections if the policies in audit were enforced, where that differs. Values: the words in output."""

    WOULD_DENY = "would-deny"
    WOULD_ACCEPT = "would-accept"

    @classmethod
    def of(cls, verdict: Verdict) -> "AuditVerdict":
        """The value for the verdict that there would be."""
        return cls.WOULD_ACCEPT if verdict is Verdict.ACCEPT else cls.WOULD_DENY


class Tier(IntEnum):
    """Policy tiers in the order of their evaluation. NetworkPolicy is the second of the network-policy API's three."""

    ADMIN = 0
    NETWORK_POLICY = 1
    BASELINE = 2

    @property
    def label(self) -> str:
        """The value in output, e.g. `admin`."""
        return self.name.lower().replace("_", "-")


class Action(IntEnum):
    """Action of a matching rule. NetworkPolicy rules only accept; PASS leaves the flow to the next tier."""

    DENY = 0
    ACCEPT = 1
    PASS = 2


class Reason(IntEnum):
    """Reason of a verdict; every decision has one."""

    NOT_ISOLATED = 0
    ALLOWED = 1
    DENIED = 2
    SAME_ADDRESS = 3
    OWN_NODE = 4

    @property
    def label(self) -> str:
        """The value in output and metrics, e.g. `own-node`."""
        return self.name.lower().replace("_", "-")


class SelectorOperator(StrEnum):
    """Operators of a label selector requirement (`LabelSelectorRequirement.operator`)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class PacketMark(IntEnum):
    """State of a packet between the rule that queues it and the chain behind the queue, in three bits of its mark. Exclusive values.

    UNKNOWN_*: of the original direction; the kernel knows no pod with the address of the end named, though it should be that of a pod of
    this node. PENDING_NAMES: DNS of a pod with domain names in its policies, in either direction.
    """

    UNKNOWN_SOURCE = 1
    UNKNOWN_DESTINATION = 2
    PENDING_ORIGINAL = 3
    PENDING_REPLY = 4
    ACCEPTED = 5
    UNKNOWN_BOTH = 6
    PENDING_NAMES = 7


class ConnectionLabel(IntEnum):
    """Bits of a connection label, counted from the first one that netpolq uses.

    ACCEPTED: policies admit the connection. KEPT_MARK, and the two after it: what other software had set in the bits of the packet mark
    that carry a `PacketMark` while its packet waits for a verdict. OWN: the node opened the connection, through an interface stacked on a
    bridge, so its packets pass the hooks twice. HELD: its first packet was queued because an address was unknown. BEFORE_ROUTING: it is
    DNS of a pod with domain names in its policies, and each of its queries is evaluated before routing.
    """

    ACCEPTED = 0
    KEPT_MARK = 1
    OWN = 4
    HELD = 5
    BEFORE_ROUTING = 6


CONNECTION_LABEL_BITS = 7
"""Adjacent bits of a label that netpolq uses."""


class Enforcement(StrEnum):
    """What becomes of the decisions of a policy (annotation `policy.netpolq.io/enforcement`). AUDIT: they are reported, not enforced."""

    ENFORCE = "enforce"
    AUDIT = "audit"


class FlowsMode(StrEnum):
    """Which connections are recorded as flows."""

    ON = "on"
    DENIED = "denied"
    OFF = "off"


class PolicyMetrics(StrEnum):
    """What connections are counted by in the metrics: nothing, their policies, or the rules of these."""

    OFF = "off"
    POLICY = "policy"
    RULE = "rule"


class Dataplane(StrEnum):
    """Forms of the queue rule: nftables' own `queue` statement, or the NFQUEUE target through nft_compat."""

    AUTO = "auto"
    NATIVE = "native"
    COMPAT = "compat"


class NodeEgress(StrEnum):
    """Whether a pod's egress policies are applied to traffic towards its own node."""

    JUDGE = "judge"
    ALLOW = "allow"


class DenyWith(StrEnum):
    """What happens to a denied packet. DROP: nothing more. REJECT: its sender gets an answer: a TCP RST, or an ICMP error."""

    DROP = "drop"
    REJECT = "reject"


class HoldUnknown(StrEnum):
    """Whether packets of unknown addresses of this node's pods wait until the pod is known. AUTO: where the pod ranges are known."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class VerdictCacheMode(StrEnum):
    """Whether the kernel caches repeated decisions. AUTO: unless every first packet is logged."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class LoggingFormat(StrEnum):
    """Format of the log lines on standard error."""

    TEXT = "text"
    JSON = "json"
