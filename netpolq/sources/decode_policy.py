"""The specification of a NetworkPolicy, typed, checked and with the API's defaults.

Source: `networking.k8s.io/v1` NetworkPolicySpec; the API server's defaulting (SetDefaults_NetworkPolicy) and validation
(ValidateNetworkPolicySpec, ValidateLabelSelector). Each reader takes a field and raises `FieldError` at the first thing that is wrong.
"""

from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import IPBlock, LabelSelector, Peer, PodPeer, PolicyPort, PolicyRule, Requirement
from netpolq.sources.fields import Field, shown
from netpolq.sources.shapes import label_key, label_value, labels, network, port_name, protocol
from netpolq.sources.sharing import SHARED

BOTH_DIRECTIONS = frozenset(Direction)

_PEERS_FIELD = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_RULES_FIELD = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}


def pod_selector(spec: Field) -> LabelSelector:
    """The pods a policy applies to; an absent selector is the empty one, which selects them all."""
    return label_selector(spec.get("podSelector"))


def policy_types(spec: Field) -> frozenset[Direction]:
    """The directions in which a policy isolates. By default Ingress, and Egress if there is any egress rule."""
    field = spec.get("policyTypes")
    elements = field.elements()
    if not elements:
        has_egress_rule = bool(spec.get(_RULES_FIELD[Direction.EGRESS]).elements())
        return BOTH_DIRECTIONS if has_egress_rule else frozenset({Direction.INGRESS})
    if len(elements) > len(Direction):
        raise field.error("must not have more than two entries")
    by_name = {direction.api_name: direction for direction in Direction}
    for element in elements:
        if element.text() not in by_name:
            raise element.error(f"must be Ingress or Egress, not {shown(element.value)}")
    return frozenset(by_name[element.text()] for element in elements)


def rules(spec: Field, direction: Direction) -> tuple[PolicyRule, ...]:
    """The rules of one direction."""
    return tuple(_rule(field, direction) for field in spec.get(_RULES_FIELD[direction]).elements())


def _rule(field: Field, direction: Direction) -> PolicyRule:
    # Read as an unknown field, the other direction's word would leave a rule without peers: one that admits everything.
    other = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
    misplaced = field.get(_PEERS_FIELD[other])
    if not misplaced.absent:
        raise misplaced.error(f"is not a field of {_RULES_FIELD[direction]} rules; did you mean {_PEERS_FIELD[direction]}?")
    peers = tuple(_peer(element) for element in field.get(_PEERS_FIELD[direction]).elements())
    ports = tuple(_port(element) for element in field.get("ports").elements())
    return SHARED.one(PolicyRule(peers or None, ports or None))


def _peer(field: Field) -> Peer:
    pods, namespaces, block = (field.get(name) for name in ("podSelector", "namespaceSelector", "ipBlock"))
    if not block.absent:
        if not (pods.absent and namespaces.absent):
            raise field.error("must not have both ipBlock and selectors")
        return _ip_block(block)
    if pods.absent and namespaces.absent:
        raise field.error("must have a podSelector, a namespaceSelector or an ipBlock")
    return PodPeer(None if namespaces.absent else label_selector(namespaces), label_selector(pods))


def _ip_block(field: Field) -> IPBlock:
    cidr = network(field.get("cidr"))
    excepted = set()
    for element in field.get("except").elements():
        inner = network(element)
        # Compared as numbers: `subnet_of` of the two families does not type-check against the union.
        inside = inner.version == cidr.version and inner.network_address in cidr and inner.prefixlen > cidr.prefixlen
        if not inside:
            raise element.error(f"must lie strictly inside {cidr}, and {inner} does not")
        excepted.add(inner)
    return IPBlock(cidr, tuple(sorted(excepted, key=lambda inner: (inner.network_address.packed, inner.prefixlen))))


def _port(field: Field) -> PolicyPort:
    of_protocol: Protocol = protocol(field.get("protocol"))
    port_field, end_field = field.get("port"), field.get("endPort")
    if isinstance(port_field.value, str):
        port: int | str | None = port_name(port_field)
    else:
        port = None if port_field.absent else port_field.port_number()
    if end_field.absent:
        return PolicyPort(of_protocol, port)
    if not isinstance(port, int):
        raise end_field.error("needs a numeric port beside it")
    end_port = end_field.port_number()
    if end_port < port:
        raise end_field.error(f"must not be below port, and {end_port} is below {port}")
    return PolicyPort(of_protocol, port, end_port)


def label_selector(field: Field) -> LabelSelector:
    """A label selector; an absent one is the empty one."""
    requirements = {Requirement(key, SelectorOperator.IN, (value,)) for key, value in labels(field.get("matchLabels")).items()}
    requirements.update(_requirement(element) for element in field.get("matchExpressions").elements())
    return SHARED.one(LabelSelector(tuple(sorted(requirements))))


def _requirement(field: Field) -> Requirement:
    key = label_key(field.get("key"))
    operator_field, values_field = field.get("operator"), field.get("values")
    name = operator_field.text()
    if name not in {operator.value for operator in SelectorOperator}:
        raise operator_field.error(f"must be In, NotIn, Exists or DoesNotExist, not {shown(name)}")
    operator = SelectorOperator(name)
    values = tuple(sorted({label_value(element) for element in values_field.elements()}))
    needs_values = operator in {SelectorOperator.IN, SelectorOperator.NOT_IN}
    if needs_values and not values:
        raise values_field.error(f"must not be empty with operator {operator}")
    if values and not needs_values:
        raise values_field.error(f"must be empty with operator {operator}")
    return Requirement(key, operator, values)
