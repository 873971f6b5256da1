"""Reader of the specification of a NetworkPolicy, typed, checked and with the API's defaults.

Source: `networking.k8s.io/v1` NetworkPolicySpec; the API server's defaulting (SetDefaults_NetworkPolicy) and validation
(ValidateNetworkPolicySpec, ValidateLabelSelector). Each function records every error of its field and returns
the valid part: after an error, the result must not be used to admit or to select.
"""

from functools import partial
from ipaddress import IPv4Network, IPv6Network

from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import IPBlock, LabelSelector, PodPeer, PolicyPeer, PolicyPort, PolicyRule, Requirement
from netpolq.sources.decode.fields import Field, FieldError, Report, each, read_or, shown
from netpolq.sources.decode.interning import SHARED
from netpolq.sources.decode.validation import label_key, label_value, labels_where_valid, network, port_name, protocol

BOTH_DIRECTIONS = frozenset(Direction)

_PEERS_FIELD = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_RULES_FIELD = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}
_DIRECTIONS = {direction.api_name: direction for direction in Direction}
_OPERATORS = {operator.value: operator for operator in SelectorOperator}


def pod_selector(spec: Field, report: Report) -> LabelSelector:
    """The pods a policy applies to; an absent selector is the empty one, which selects them all."""
    return label_selector(spec.get("podSelector"), report)


def policy_types(spec: Field, report: Report) -> frozenset[Direction]:
    """The directions in which a policy isolates. By default Ingress, and Egress if there is any egress rule."""
    field = spec.get("policyTypes")
    if not field.value and isinstance(field.value, list | None):
        has_egress_rule = bool(spec.get(_RULES_FIELD[Direction.EGRESS]).elements(report))
        return BOTH_DIRECTIONS if has_egress_rule else frozenset({Direction.INGRESS})
    elements = field.elements(report)
    if len(elements) > len(Direction):
        report(field.error("must not have more than two entries"))
    return frozenset(each(_policy_type, elements, report))


def _policy_type(field: Field) -> Direction:
    direction = _DIRECTIONS.get(field.text())
    if direction is None:
        raise field.error(f"must be Ingress or Egress, not {shown(field.value)}")
    return direction


def rules(spec: Field, direction: Direction, report: Report) -> tuple[PolicyRule, ...]:
    """The rules of one direction."""
    fields = spec.get(_RULES_FIELD[direction]).elements(report)
    return tuple(each(partial(_rule, direction=direction, report=report), fields, report))


def _rule(field: Field, direction: Direction, report: Report) -> PolicyRule:
    # If the field of the other direction were ignored, the rule would have no peers and admit everything.
    other = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
    misplaced = field.get(_PEERS_FIELD[other])
    if not misplaced.absent:
        message = f"is not a field of {_RULES_FIELD[direction]} rules; did you mean {_PEERS_FIELD[direction]}?"
        report(misplaced.error(message))
    peers = each(partial(_peer, report=report), field.get(_PEERS_FIELD[direction]).elements(report), report)
    ports = each(partial(_port, report=report), field.get("ports").elements(report), report)
    return SHARED.intern(PolicyRule(tuple(peers) or None, tuple(ports) or None))


def _peer(field: Field, report: Report) -> PolicyPeer:
    pods, namespaces, block = field.get("podSelector"), field.get("namespaceSelector"), field.get("ipBlock")
    if not block.absent:
        if not (pods.absent and namespaces.absent):
            report(field.error("must not have both ipBlock and selectors"))
            label_selector(namespaces, report)
            label_selector(pods, report)
        return _ip_block(block, report)
    if pods.absent and namespaces.absent:
        raise FieldError(field.path, "must have a podSelector, a namespaceSelector or an ipBlock", is_missing=True)
    return PodPeer(None if namespaces.absent else label_selector(namespaces, report), label_selector(pods, report))


def _ip_block(field: Field, report: Report) -> IPBlock:
    excepted = each(_excepted, field.get("except").elements(report), report)
    cidr = network(field.get("cidr"))
    for path, inner in excepted:
        # Compared as numbers: `subnet_of` of the two families does not type-check against the union.
        inside = inner.version == cidr.version and inner.network_address in cidr and inner.prefixlen > cidr.prefixlen
        if not inside:
            report(FieldError(path, f"must lie strictly inside {cidr}, and {inner} does not"))
    blocks = {inner for _path, inner in excepted}
    return IPBlock(cidr, tuple(sorted(blocks, key=lambda inner: (inner.network_address.packed, inner.prefixlen))))


def _excepted(field: Field) -> tuple[str, IPv4Network | IPv6Network]:
    return field.path, network(field)


def _port(field: Field, report: Report) -> PolicyPort:
    of_protocol = read_or(protocol, field.get("protocol"), report, Protocol.TCP)
    port_field, end_field = field.get("port"), field.get("endPort")
    port: int | str | None = None
    if not port_field.absent:
        port = read_or(_port_name_or_number, port_field, report, None)
    if end_field.absent:
        return PolicyPort(of_protocol, port)
    if isinstance(port_field.value, str | None):
        report(FieldError(end_field.path, "needs a numeric port beside it", is_missing=port_field.absent))
    end_port = end_field.port_number()
    if isinstance(port, int) and end_port < port:
        raise end_field.error(f"must not be below port, and {end_port} is below {port}")
    return PolicyPort(of_protocol, port, end_port)


def _port_name_or_number(field: Field) -> str | int:
    return port_name(field) if isinstance(field.value, str) else field.port_number()


def label_selector(field: Field, report: Report) -> LabelSelector:
    """A label selector; an absent one is the empty one."""
    field = read_or(Field.record, field, report, Field(field.path, None))
    wanted = labels_where_valid(field.get("matchLabels"), report)
    requirements = {Requirement(key, SelectorOperator.IN, (value,)) for key, value in wanted.items()}
    expressions = field.get("matchExpressions").elements(report)
    if expressions:
        requirements.update(each(partial(_requirement, report=report), expressions, report))
    return SHARED.intern(LabelSelector(tuple(sorted(requirements))))


def _requirement(field: Field, report: Report) -> Requirement:
    values_field = field.get("values")
    key = read_or(label_key, field.get("key"), report, "")
    values = tuple(sorted(set(each(label_value, values_field.elements(report), report))))
    operator = _operator(field.get("operator"))
    needs_values = operator in {SelectorOperator.IN, SelectorOperator.NOT_IN}
    if needs_values and not values_field.value:
        raise values_field.error(f"must not be empty with operator {operator}")
    if values and not needs_values:
        raise values_field.error(f"must be empty with operator {operator}")
    return Requirement(key, operator, values)


def _operator(field: Field) -> SelectorOperator:
    name = field.text()
    operator = _OPERATORS.get(name)
    if operator is None:
        raise field.error(f"must be In, NotIn, Exists or DoesNotExist, not {shown(name)}")
    return operator
