"""Readers of the rules and the subject of a cluster-wide policy, typed, checked, and failing closed.

A rule that cannot be read whole fails closed, at its position in the list: one that accepts then matches nothing, any other denies
everything. A newer API may have fields that restrict a rule, so an unknown field is as bad as an invalid one.

Source: `policy.networking.k8s.io` v1alpha1, v1alpha2 and v1beta1; the limits, patterns and expressions of their CRDs.
"""

import re

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from netpolq.addresses import address_key, parse_address
from netpolq.enums import Action, Direction
from netpolq.model import ClusterRule, DomainPeer, IPBlock, LabelSelector, NodePeer, Peer, PodPeer, PolicyPort, domain_name
from netpolq.sources.decode.cluster_ports import only_field
from netpolq.sources.decode.fields import Field, FieldError, Report, read_or, shown
from netpolq.sources.decode.interning import SHARED
from netpolq.sources.decode.known_fields import Schema, all_known
from netpolq.sources.decode.policy import label_selector
from netpolq.sources.decode.problems import Problems
from netpolq.sources.decode.validation import LABEL_LENGTH, network

MAX_NAME_CHARACTERS = 100
MAX_NETWORKS = 25
MAX_CIDR_CHARACTERS = 43
MAX_DOMAIN_NAMES = 25
MAX_DOMAIN_NAME_CHARACTERS = 253
"""Without the dot at the end. Source: RFC 1035 section 2.3.4, 255 octets on the wire."""

_RULES_FIELD = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}
_PEERS_FIELD = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_SELECTORS = ("namespaces", "pods")
_PEERS = {Direction.INGRESS: _SELECTORS, Direction.EGRESS: (*_SELECTORS, "networks", "nodes")}
_DOMAIN_NAMES = "domainNames"
_HAVE_NONE = "networks, nodes and domain names have none"
_DENY_EVERYTHING = ClusterRule(Action.DENY)


class ReadPorts(Protocol):
    """Reads one element of the list of ports. Raises `FieldError`, or records errors."""

    def __call__(self, field: Field, *, report: Report) -> tuple[PolicyPort, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFormat:
    """The differences between the rules of kinds and versions.

    `max_items`: of rules, of peers and of ports. `ports_field`, `read_port`: where the ports are, and how one is read. `masked_networks`:
    whether a CIDR must have no host bits; where it may have them they are cleared. `needs_namespace_selector`: whether a pod selector
    needs a namespace selector beside it; without one it selects in every namespace. `domain_names`: the pattern of a domain name in a
    peer for egress; None: there is no such peer.
    """

    actions: Mapping[str, Action]
    ports_field: str
    read_port: ReadPorts
    max_items: int
    masked_networks: bool
    needs_namespace_selector: bool
    domain_names: re.Pattern[str] | None


class ReadRule(NamedTuple):
    """A rule, and its path. `is_closed`: whether it failed closed."""

    path: str
    rule: ClusterRule
    is_closed: bool = False

    def closed(self) -> "ReadRule":
        """The rule, failed closed."""
        if self.rule.action is Action.ACCEPT:
            return ReadRule(self.path, ClusterRule(Action.ACCEPT, (), None, self.rule.name), is_closed=True)
        return ReadRule(self.path, ClusterRule(Action.DENY, None, None, self.rule.name), is_closed=True)

    @property
    def effect(self) -> str:
        """What a rule that failed closed does."""
        return f"{self.path} {'matches nothing' if self.rule.action is Action.ACCEPT else 'denies everything'}"


def rules(spec: Field, direction: Direction, rule_format: RuleFormat, schema: Schema, problems: Problems) -> list[ReadRule]:
    """The rules of one direction. `schema`: the known fields of a rule."""
    field = spec.get(_RULES_FIELD[direction])
    fields = read_or(Field.items, field, problems.add, None)
    if fields is None:
        return [ReadRule(field.path, _DENY_EVERYTHING, is_closed=True)]
    limit = rule_format.max_items
    found = [_read_rule(one, direction, rule_format, schema, problems) for one in fields[:limit]]
    if len(fields) > limit:
        problems.add(field.error(f"must have at most {limit} items, not {len(fields)}"))
        # One rule stands for those beyond the limit.
        if any(_action_or_none(one, rule_format) is not Action.ACCEPT for one in fields[limit:]):
            found.append(ReadRule(fields[limit].path, _DENY_EVERYTHING, is_closed=True))
    return found


def _read_rule(field: Field, direction: Direction, rule_format: RuleFormat, schema: Schema, problems: Problems) -> ReadRule:
    record = read_or(_present_record, field, problems.add, None)
    if record is None:
        return ReadRule(field.path, _DENY_EVERYTHING, is_closed=True)
    name = read_or(_rule_name, record.get("name"), problems.add, "")
    before = problems.count
    action = read_or(partial(_action, actions=rule_format.actions), record.get("action"), problems.add, None)
    peers = _peers(record.get(_PEERS_FIELD[direction]), direction, action, rule_format, problems.add)
    ports = _ports(record.get(rule_format.ports_field), rule_format, problems.add)
    if any(isinstance(port.port, str) for port in ports or ()) and not all(isinstance(peer, PodPeer) for peer in peers):
        problems.add(record.get(rule_format.ports_field).error(f"must not have a named port: {_HAVE_NONE}"))
    rule = ReadRule(field.path, SHARED.intern(ClusterRule(action or Action.DENY, peers, ports, name)))
    return rule if problems.count == before and all_known(field.value, schema) else rule.closed()


def _present_record(field: Field) -> Field:
    if field.absent:
        raise FieldError(field.path, "must not be null")
    return field.record()


def _rule_name(field: Field) -> str:
    """The name of a rule; empty if absent. Logs and the snapshot are UTF-8 and have it in one line."""
    text = field.text()
    if len(text) > MAX_NAME_CHARACTERS:
        raise field.error(
            f"must have at most {MAX_NAME_CHARACTERS} characters, not {len(text)}; the rule is used without its name"
        )
    if not text.isprintable():
        raise field.error(f"must be printable text that UTF-8 can encode, not {shown(text)}; the rule is used without its name")
    return text


def _action(field: Field, actions: Mapping[str, Action]) -> Action:
    text = field.text()
    if text not in actions:
        raise field.error(f"must be {' or '.join(actions)}, not {shown(field.value)}")
    return actions[text]


def _action_or_none(field: Field, rule_format: RuleFormat) -> Action | None:
    name = field.value.get("action") if isinstance(field.value, dict) else None
    return rule_format.actions.get(name) if isinstance(name, str) else None


def _items(field: Field, limit: int, report: Report) -> list[Field]:
    """The elements of a list that must not be empty, up to a limit. Records an error if there are none or more."""
    fields = read_or(Field.items, field, report, None)
    if fields is None:
        return []
    if not fields:
        report(field.error(f"must have 1 to {limit} items"))
    elif len(fields) > limit:
        report(field.error(f"must have at most {limit} items, not {len(fields)}"))
    return fields[:limit]


def subject(field: Field, rule_format: RuleFormat, schema: Schema, problems: Problems) -> PodPeer | None:
    """The pods that a policy selects, or None if that is not clear. `schema`: the known fields of a subject."""
    before = problems.count
    found = read_or(partial(_selected_pods, rule_format=rule_format, report=problems.add), field, problems.add, None)
    return found if problems.count == before and all_known(field.value, schema) else None


def _peers(
    field: Field, direction: Direction, action: Action | None, rule_format: RuleFormat, report: Report
) -> tuple[Peer, ...]:
    read = partial(_peer, direction=direction, action=action, rule_format=rule_format, report=report)
    return tuple(peer for one in _items(field, rule_format.max_items, report) for peer in read_or(read, one, report, ()))


def _peer(field: Field, direction: Direction, action: Action | None, rule_format: RuleFormat, report: Report) -> tuple[Peer, ...]:
    pattern = rule_format.domain_names if direction is Direction.EGRESS else None
    name, inner = only_field(field, *_PEERS[direction], *(() if pattern is None else (_DOMAIN_NAMES,)))
    match name:
        case "domainNames" if pattern is not None:
            if action not in {Action.ACCEPT, None}:
                # An agent need not know every address of a name, so what it denies by name might pass.
                report(inner.error("is allowed only in rules that accept"))
            return _domain_names(inner, pattern, report)
        case "networks":
            return _networks(inner, rule_format, report)
        case "nodes":
            return (NodePeer(label_selector(inner, report)),)
        case _:
            return (_selected_pods(field, rule_format, report),)


def _selected_pods(field: Field, rule_format: RuleFormat, report: Report) -> PodPeer:
    name, inner = only_field(field, *_SELECTORS)
    if name == "namespaces":
        return PodPeer(label_selector(inner, report), LabelSelector())
    namespaces, pods = inner.get("namespaceSelector"), inner.get("podSelector")
    for selector, is_needed in ((namespaces, rule_format.needs_namespace_selector), (pods, True)):
        if selector.absent and is_needed:
            report(selector.error("is required; {} selects all"))
    return PodPeer(label_selector(namespaces, report), label_selector(pods, report))


def _networks(field: Field, rule_format: RuleFormat, report: Report) -> tuple[IPBlock, ...]:
    blocks: dict[IPBlock, None] = {}
    seen: set[str] = set()
    for one in _items(field, MAX_NETWORKS, report):
        block = read_or(partial(_network, masked=rule_format.masked_networks, seen=seen), one, report, None)
        if block is not None:
            blocks[block] = None
    return tuple(blocks)


def _network(field: Field, masked: bool, seen: set[str]) -> IPBlock:
    """A network; its text is added to those seen before."""
    text = field.text()
    if text in seen:
        raise field.error(f"{shown(text)} is in the list already")
    seen.add(text)
    if len(text) > MAX_CIDR_CHARACTERS:
        raise field.error(f"must have at most {MAX_CIDR_CHARACTERS} characters, not {len(text)}")
    cidr = network(field)
    if cidr.version == 4 and ":" in text:
        raise field.error(f"must not be an IPv4-mapped IPv6 network: {shown(text)} is {cidr}")
    if masked and parse_address(text.partition("/")[0]) != address_key(cidr.network_address.packed):
        raise field.error(f"must have no bits behind its prefix: {shown(text)} is in {cidr}")
    return IPBlock(cidr)


def _domain_names(field: Field, pattern: re.Pattern[str], report: Report) -> tuple[DomainPeer, ...]:
    seen: set[str] = set()
    read = partial(_domain_name, pattern=pattern, seen=seen)
    found = (read_or(read, one, report, None) for one in _items(field, MAX_DOMAIN_NAMES, report))
    return tuple(dict.fromkeys(peer for peer in found if peer is not None))


def _domain_name(field: Field, pattern: re.Pattern[str], seen: set[str]) -> DomainPeer:
    """A domain name; its text is added to those seen before."""
    text = field.text()
    if text in seen:
        raise field.error(f"{shown(text)} is in the list already")
    seen.add(text)
    if not pattern.fullmatch(text):
        raise field.error(f"must be a domain name such as www.example.com or *.example.com, in ASCII (xn--…), not {shown(text)}")
    name = domain_name(text)
    if len(name) > MAX_DOMAIN_NAME_CHARACTERS or any(len(label) > LABEL_LENGTH for label in name.split(".")):
        raise field.error(
            f"must have at most {MAX_DOMAIN_NAME_CHARACTERS} characters and {LABEL_LENGTH} in each label, not {shown(text)}"
        )
    return DomainPeer(name)


def _ports(field: Field, rule_format: RuleFormat, report: Report) -> tuple[PolicyPort, ...] | None:
    if field.absent:
        return None
    read = partial(rule_format.read_port, report=report)
    return tuple(port for one in _items(field, rule_format.max_items, report) for port in read_or(read, one, report, ()))
