"""The specification of a NetworkPolicy, typed, checked and with the API's defaults.

Source: `networking.k8s.io/v1` NetworkPolicySpec; the API server's defaulting (SetDefaults_NetworkPolicy) and validation
(ValidateNetworkPolicySpec, ValidateLabelSelector). Each reader takes a field, complains of everything in it that is wrong, and returns
what is left: after a complaint, nothing that it returns may be used to admit or to select.
"""

from functools import partial
from ipaddress import IPv4Network, IPv6Network

from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import IPBlock, LabelSelector, Peer, PodPeer, PolicyPort, PolicyRule, Requirement
from netpolq.sources.decode.fields import Complain, Field, FieldError, each, read_or, shown
from netpolq.sources.decode.interning import SHARED
from netpolq.sources.decode.validation import label_key, label_value, labels_where_valid, network, port_name, protocol

BOTH_DIRECTIONS = frozenset(Direction)

_PEERS_FIELD = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_RULES_FIELD = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}
_DIRECTIONS = {direction.api_name: direction for direction in Direction}
_OPERATORS = {operator.value: operator for operator in SelectorOperator}


def pod_selector(spec: Field, complain: Complain) -> LabelSelector:
    """The pods a policy applies to; an absent selector is the empty one, which selects them all."""
    return label_selector(spec.get("podSelector"), complain)


def policy_types(spec: Field, complain: Complain) -> frozenset[Direction]:
    """The directions in which a policy isolates. By default Ingress, and Egress if there is any egress rule."""
    field = spec.get("policyTypes")
    if not field.value and isinstance(field.value, list | None):
        has_egress_rule = bool(spec.get(_RULES_FIELD[Direction.EGRESS]).elements(complain))
        return BOTH_DIRECTIONS if has_egress_rule else frozenset({Direction.INGRESS})
    elements = field.elements(complain)
    if len(elements) > len(Direction):
        complain(field.error("must not have more than two entries"))
    return frozenset(each(_policy_type, elements, complain))


def _policy_type(field: Field) -> Direction:
    direction = _DIRECTIONS.get(field.text())
    if direction is None:
        raise field.error(f"must be Ingress or Egress, not {shown(field.value)}")
    return direction


def rules(spec: Field, direction: Direction, complain: Complain) -> tuple[PolicyRule, ...]:
    """The rules of one direction."""
    fields = spec.get(_RULES_FIELD[direction]).elements(complain)
    return tuple(each(partial(_rule, direction=direction, complain=complain), fields, complain))


def _rule(field: Field, direction: Direction, complain: Complain) -> PolicyRule:
    # Read as an unknown field, the other direction's word would leave a rule without peers: one that admits everything.
    other = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
    misplaced = field.get(_PEERS_FIELD[other])
    if not misplaced.absent:
        message = f"is not a field of {_RULES_FIELD[direction]} rules; did you mean {_PEERS_FIELD[direction]}?"
        complain(misplaced.error(message))
    peers = each(partial(_peer, complain=complain), field.get(_PEERS_FIELD[direction]).elements(complain), complain)
    ports = each(partial(_port, complain=complain), field.get("ports").elements(complain), complain)
    return SHARED.intern(PolicyRule(tuple(peers) or None, tuple(ports) or None))


def _peer(field: Field, complain: Complain) -> Peer:
    pods, namespaces, block = field.get("podSelector"), field.get("namespaceSelector"), field.get("ipBlock")
    if not block.absent:
        if not (pods.absent and namespaces.absent):
            complain(field.error("must not have both ipBlock and selectors"))
            label_selector(namespaces, complain)
            label_selector(pods, complain)
        return _ip_block(block, complain)
    if pods.absent and namespaces.absent:
        raise FieldError(field.path, "must have a podSelector, a namespaceSelector or an ipBlock", is_missing=True)
    return PodPeer(None if namespaces.absent else label_selector(namespaces, complain), label_selector(pods, complain))


def _ip_block(field: Field, complain: Complain) -> IPBlock:
    excepted = each(_excepted, field.get("except").elements(complain), complain)
    cidr = network(field.get("cidr"))
    for path, inner in excepted:
        # Compared as numbers: `subnet_of` of the two families does not type-check against the union.
        inside = inner.version == cidr.version and inner.network_address in cidr and inner.prefixlen > cidr.prefixlen
        if not inside:
            complain(FieldError(path, f"must lie strictly inside {cidr}, and {inner} does not"))
    blocks = {inner for _path, inner in excepted}
    return IPBlock(cidr, tuple(sorted(blocks, key=lambda inner: (inner.network_address.packed, inner.prefixlen))))


def _excepted(field: Field) -> tuple[str, IPv4Network | IPv6Network]:
    return field.path, network(field)


def _port(field: Field, complain: Complain) -> PolicyPort:
    of_protocol = read_or(protocol, field.get("protocol"), complain, Protocol.TCP)
    port_field, end_field = field.get("port"), field.get("endPort")
    port: int | str | None = None
    if not port_field.absent:
        port = read_or(_port_name_or_number, port_field, complain, None)
    if end_field.absent:
        return PolicyPort(of_protocol, port)
    if isinstance(port_field.value, str | None):
        complain(FieldError(end_field.path, "needs a numeric port beside it", is_missing=port_field.absent))
    end_port = end_field.port_number()
    if isinstance(port, int) and end_port < port:
        raise end_field.error(f"must not be below port, and {end_port} is below {port}")
    return PolicyPort(of_protocol, port, end_port)


def _port_name_or_number(field: Field) -> str | int:
    return port_name(field) if isinstance(field.value, str) else field.port_number()


def label_selector(field: Field, complain: Complain) -> LabelSelector:
    """A label selector; an absent one is the empty one."""
    field = read_or(Field.record, field, complain, Field(field.path, None))
    wanted = labels_where_valid(field.get("matchLabels"), complain)
    requirements = {Requirement(key, SelectorOperator.IN, (value,)) for key, value in wanted.items()}
    expressions = field.get("matchExpressions").elements(complain)
    if expressions:
        requirements.update(each(partial(_requirement, complain=complain), expressions, complain))
    return SHARED.intern(LabelSelector(tuple(sorted(requirements))))


def _requirement(field: Field, complain: Complain) -> Requirement:
    values_field = field.get("values")
    key = read_or(label_key, field.get("key"), complain, "")
    values = tuple(sorted(set(each(label_value, values_field.elements(complain), complain))))
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
