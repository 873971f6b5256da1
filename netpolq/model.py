"""The objects of the agent, reduced to the fields it uses and with API defaults already applied.

Everything here is immutable by contract (a `Mapping` is never written after construction). Untyped API bodies stop at
`netpolq.sources.decode.decoder`. Source of every field: the Kubernetes API types `v1.Namespace`, `v1.Pod`, `v1.Node`,
`networking.k8s.io/v1 NetworkPolicy` and `policy.networking.k8s.io ClusterNetworkPolicy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, NamedTuple

from netpolq.addresses import AddressKey
from netpolq.enums import Action, DenyWith, Direction, Enforcement, Protocol, SelectorOperator, Tier

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""The label that every namespace has, also where its manifest does not list it."""

ClusterPolicyKind = Literal["ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"]

Kind = Literal["Namespace", "Pod", "Node", "NetworkPolicy"] | ClusterPolicyKind


def qualified_name(namespace: str, name: str) -> str:
    """The name of an object as messages, logs and JSON have it: `namespace/name`, or the name alone without a namespace."""
    return f"{namespace}/{name}" if namespace else name


class ObjectKey(NamedTuple):
    """Identity of an object. `namespace` is empty for an object of the cluster."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {qualified_name(self.namespace, self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace. `labels` always hold `NAMESPACE_NAME_LABEL`. `deny_with`, `enforcement`: of its annotations, None without one."""

    name: str
    labels: Mapping[str, str]
    deny_with: DenyWith | None = None
    enforcement: Enforcement | None = None

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Namespace", "", self.name)


class Labels(dict[str, str]):
    """Labels that can be compared by hash, so that equal ones are found and shared. Never written after construction."""

    __slots__ = ("_hash",)
    _hash: int

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> "Labels":
        """Return labels in this form, the same object if they have it already."""
        return labels if isinstance(labels, cls) else cls(labels)

    def __hash__(self) -> int:  # type: ignore[override]  # a plain dict has none because it may change
        try:
            return self._hash
        except AttributeError:
            self._hash = hash(frozenset(self.items()))
            return self._hash


class NamedPort(NamedTuple):
    """A container port that has a name (`ContainerPort`); a name may occur several times in a pod."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that may own addresses.

    `ips`: all of `status.podIPs` (and `podIP`), in order, without duplicates. `host_ips`: all of `status.hostIPs` (and `hostIP`).
    `completed`: phase Succeeded or Failed; such a pod owns no address any more. `running`: phase Running.
    `terminating`: it has a `metadata.deletionTimestamp`, whether or not the grace period is over.
    `created`: `metadata.creationTimestamp`, as written (RFC 3339 sorts as text), or empty. `node_name`: `spec.nodeName` or empty.
    `named_ports`: of containers and of init containers that keep running (restartPolicy Always), in order.
    `uid`: `metadata.uid` while `ips` is empty, else empty, to save memory: only the pods whose address is unknown are identified by it.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    ips: tuple[AddressKey, ...]
    host_ips: tuple[AddressKey, ...] = ()
    node_name: str = ""
    host_network: bool = False
    completed: bool = False
    running: bool = True
    terminating: bool = False
    created: str = ""
    named_ports: tuple[NamedPort, ...] = ()
    uid: str = ""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Pod", self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node. `addresses`: the IP addresses in `status.addresses`, of any type, in order, without duplicates."""

    name: str
    labels: Mapping[str, str]
    addresses: tuple[AddressKey, ...]

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Node", "", self.name)


class Requirement(NamedTuple):
    """One requirement on a label (`LabelSelectorRequirement`). `values` are sorted, and empty for Exists and DoesNotExist."""

    key: str
    operator: SelectorOperator
    values: tuple[str, ...]


class LabelSelector(NamedTuple):
    """All requirements must hold; none selects everything. `matchLabels` are stored as In requirements with one value.

    Requirements are sorted and unique, so that equal selectors compare equal.
    """

    requirements: tuple[Requirement, ...] = ()


class IPBlock(NamedTuple):
    """`NetworkPolicyPeer.ipBlock`. `except_` lie within `cidr` and are sorted; host bits are cleared as in the API's semantics."""

    cidr: IPv4Network | IPv6Network
    except_: tuple[IPv4Network | IPv6Network, ...] = ()


class PodPeer(NamedTuple):
    """A peer given by selectors. `namespace_selector` None means the policy's own namespace; `pod_selector` is never None here
    (an absent one is the empty selector, which selects every pod of the selected namespaces).
    """

    namespace_selector: LabelSelector | None
    pod_selector: LabelSelector


class NodePeer(NamedTuple):
    """Nodes, given by their labels. It matches every address of the nodes that the selector selects."""

    selector: LabelSelector


class DomainPeer(NamedTuple):
    """Addresses that a domain name resolves to. It matches every address with a learned name that the pattern matches.

    `pattern`: a name in the form of `domain_name`, or `*.` and a name: one or more labels in front of that.
    """

    pattern: str


def domain_name(text: str) -> str:
    """A domain name, or a pattern of such names, in the one form in which they are compared: lower case, no dot at the end.

    Names beyond ASCII are given as A-labels. Source: RFC 4343 (case), RFC 5890 section 2.3.2.1 (A-labels).
    """
    return text.removesuffix(".").lower()


PolicyPeer = PodPeer | IPBlock
"""A peer of a NetworkPolicy."""

Peer = PolicyPeer | NodePeer | DomainPeer
"""A peer of a cluster-wide policy."""


class PolicyPort(NamedTuple):
    """`NetworkPolicyPort`. `port` None: every port of the protocol; a string: a named port of the destination pod.

    `end_port` is inclusive and only set beside a numeric `port`.
    """

    protocol: Protocol
    port: int | str | None = None
    end_port: int | None = None


class PolicyRule(NamedTuple):
    """An ingress or egress rule. `peers` None: every peer (from/to absent or empty); `ports` None: every port and every protocol."""

    peers: tuple[PolicyPeer, ...] | None = None
    ports: tuple[PolicyPort, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPolicy:
    """A policy. It isolates the pods of its namespace that `pod_selector` selects, in each of `policy_types`.

    A policy that could not be understood is kept with its selector and types and without rules: it isolates and admits nothing.
    `deny_with`, `enforcement`: of its annotations, None without one.
    """

    namespace: str
    name: str
    pod_selector: LabelSelector
    policy_types: frozenset[Direction]
    ingress: tuple[PolicyRule, ...] = ()
    egress: tuple[PolicyRule, ...] = ()
    deny_with: DenyWith | None = None
    enforcement: Enforcement | None = None

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("NetworkPolicy", self.namespace, self.name)

    def rules(self, direction: Direction) -> tuple[PolicyRule, ...]:
        """The rules of one direction."""
        return self.egress if direction is Direction.EGRESS else self.ingress


class ClusterRule(NamedTuple):
    """A rule of a cluster-wide policy. `peers` None: every peer; empty: none, so that the rule matches nothing. The namespace selector of
    a `PodPeer` is never None here. `ports` None: every port and every protocol. `name`: as the policy names the rule, or empty.
    """

    action: Action
    peers: tuple[Peer, ...] | None = None
    ports: tuple[PolicyPort, ...] | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNetworkPolicy:
    """A cluster-wide policy of the Admin or Baseline tier.

    `kind`: of the object that it comes from. `subject`: the pods that it selects, of all namespaces; its namespace selector is never None.
    It decides nothing in a direction in which it has no rules. `priority`: 0 is evaluated first; policies of equal priority are evaluated
    in order of `qualified_name`. `deny_with`, `enforcement`: of its annotations, None without one.

    What could not be understood fails closed: the rule stays at its position, and either matches nothing (Accept) or denies everything.
    """

    name: str
    tier: Tier
    priority: int
    subject: PodPeer
    ingress: tuple[ClusterRule, ...] = ()
    egress: tuple[ClusterRule, ...] = ()
    kind: ClusterPolicyKind = "ClusterNetworkPolicy"
    deny_with: DenyWith | None = None
    enforcement: Enforcement | None = None

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.kind, "", self.name)

    @property
    def qualified_name(self) -> str:
        """The name by which decisions, logs and metrics name the policy: `name`, or `kind/name` for the kinds of v1alpha1."""
        return cluster_policy_name(self.kind, self.name)

    def rules(self, direction: Direction) -> tuple[ClusterRule, ...]:
        """The rules of one direction."""
        return self.egress if direction is Direction.EGRESS else self.ingress


def cluster_policy_name(kind: ClusterPolicyKind, name: str) -> str:
    """See `ClusterNetworkPolicy.qualified_name`. No namespace has the name of a kind, so it differs from that of every NetworkPolicy."""
    return name if kind == "ClusterNetworkPolicy" else f"{kind}/{name}"


Object = Namespace | Pod | Node | NetworkPolicy | ClusterNetworkPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Something in a source that could not be used as written.

    `origin`: file path relative to the folder, or empty. `document`: 1-based number in the file, or 0. `key`: the object, as far as known.
    `field`: path such as `spec.ingress[0].ports[1].endPort`, or empty. `consequence`: what is in force instead. `leaves_open`: whether it
    may leave pods without isolation because the object is too incomplete; then the agent is not ready. `further`: other problems
    of the same object, each with its field in front; bounded, the last may count the rest.
    """

    origin: str
    document: int = 0
    key: str = ""
    field: str = ""
    message: str
    consequence: str
    leaves_open: bool = False
    further: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{'; '.join([': '.join([*self._where, *self._first]), *self.further])} ({self.consequence})"

    def lines(self) -> list[str]:
        """Return one line for each problem; each names the object, the last also names what is in force instead."""
        *before, last = [": ".join([*self._where, *self._first]), *(": ".join([*self._where, text]) for text in self.further)]
        return [*before, f"{last} ({self.consequence})"]

    @property
    def _where(self) -> list[str]:
        where = self.origin + (f" document {self.document}" if self.document else "")
        return [part for part in (where, self.key) if part]

    @property
    def _first(self) -> list[str]:
        return [self.field, self.message] if self.field else [self.message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a source reports, applied as one: the store never shows half of it.

    `rejections` and `ignored` (kind → count) are the complete present lists, not differences. The first update of a source is its
    complete first sync. `observed_ns`: `time.monotonic_ns()` when the change was first noticed; programming latency counts from it.
    """

    upserted: tuple[Object, ...] = ()
    deleted: tuple[ObjectKey, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    ignored: Mapping[str, int]
    observed_ns: int
