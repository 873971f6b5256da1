"""Reader of cluster-wide policies, of all kinds and versions.

A policy whose subject, name or version is unclear cannot be applied, so its error has no `partial`. Every other problem fails closed:
one of a rule closes that rule (`cluster_rules.py`), one of the specification itself all of them.

Source: `policy.networking.k8s.io` ClusterNetworkPolicySpec, AdminNetworkPolicySpec and BaselineAdminNetworkPolicySpec.
"""

import re

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from netpolq.enums import Action, Direction, Tier
from netpolq.model import ClusterNetworkPolicy, ClusterPolicyKind, LabelSelector, PodPeer
from netpolq.sources.decode.annotations import deny_with, enforcement
from netpolq.sources.decode.cluster_ports import ports_element, protocols_element, protocols_element_with_port
from netpolq.sources.decode.cluster_rules import ReadRule, RuleFormat, rules, subject
from netpolq.sources.decode.error import DecodeError
from netpolq.sources.decode.fields import Field, read_or, shown
from netpolq.sources.decode.kinds import CLUSTER_GROUP, VERSIONS
from netpolq.sources.decode.known_fields import SCHEMAS
from netpolq.sources.decode.problems import Problems
from netpolq.sources.decode.validation import object_name

MAX_PRIORITY = 1000
BASELINE_ADMIN_PRIORITY = MAX_PRIORITY + 1
"""Priority of the BaselineAdminNetworkPolicy, which has none: after every ClusterNetworkPolicy of the Baseline tier."""
BASELINE_ADMIN_NAME = "default"
MAX_SHOWN_EFFECTS = 5
"""Maximum number of rules that the consequence of a problem names; the rest is counted."""


class Placement(NamedTuple):
    """When a policy is evaluated."""

    tier: Tier
    priority: int


_NO_SUBJECT = PodPeer(LabelSelector(), LabelSelector())
_FIRST = Placement(Tier.ADMIN, 0)
"""Placement of a policy whose own is unknown: before everything, with all its rules closed."""
_TIERS = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}

_LABEL_END = "([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN_NAME = re.compile(rf"(\*\.)?([a-zA-Z0-9]{_LABEL_END}\.)+[a-zA-Z0-9]{_LABEL_END}\.?")
_LENIENT_DOMAIN_NAME = re.compile(rf"(\*\.)?([a-zA-Z0-9_]{_LABEL_END}\.)+[a-zA-Z0-9_]{_LABEL_END}\.?")
"""Before v1beta1 a label may begin with an underscore. The pattern of these CRDs has `A-z`, which also admits brackets, `^`, the backslash
and the grave accent. No name has them, and a rule with one fails closed."""

_V1BETA1 = RuleFormat(
    actions={"Accept": Action.ACCEPT, "Deny": Action.DENY, "Pass": Action.PASS},
    ports_field="protocols",
    read_port=protocols_element,
    max_items=25,
    masked_networks=True,
    needs_namespace_selector=False,
    domain_names=_DOMAIN_NAME,
)
_V1ALPHA2 = replace(_V1BETA1, read_port=protocols_element_with_port, masked_networks=False, domain_names=_LENIENT_DOMAIN_NAME)
_ADMIN = RuleFormat(
    actions={"Allow": Action.ACCEPT, "Deny": Action.DENY, "Pass": Action.PASS},
    ports_field="ports",
    read_port=ports_element,
    max_items=100,
    masked_networks=False,
    needs_namespace_selector=True,
    domain_names=_LENIENT_DOMAIN_NAME,
)
_BASELINE = replace(_ADMIN, actions={"Allow": Action.ACCEPT, "Deny": Action.DENY}, domain_names=None)


_FORMATS: Final[Mapping[tuple[str, object], RuleFormat]] = {
    ("ClusterNetworkPolicy", f"{CLUSTER_GROUP}/v1beta1"): _V1BETA1,
    ("ClusterNetworkPolicy", f"{CLUSTER_GROUP}/v1alpha2"): _V1ALPHA2,
    ("AdminNetworkPolicy", f"{CLUSTER_GROUP}/v1alpha1"): _ADMIN,
    ("BaselineAdminNetworkPolicy", f"{CLUSTER_GROUP}/v1alpha1"): _BASELINE,
}


def cluster_policy(body: Field, kind: ClusterPolicyKind, problems: Problems) -> ClusterNetworkPolicy:
    """Read a policy, each part independently, so that an error in one does not hide the others. `problems`: those of its version and its
    unknown fields. Raises `DecodeError` if there are any at the end.
    """
    version = body.get("apiVersion").value
    is_known_version = version in VERSIONS[kind]
    rule_format = _FORMATS[kind, version if is_known_version else VERSIONS[kind][0]]
    schema = SCHEMAS[kind]
    of_spec = schema["spec"] or {}
    name = read_or(partial(_name, kind=kind), body.get("metadata"), problems.add, None)
    spec = read_or(Field.record, body.get("spec"), problems.add, Field(body.get("spec").path, None))
    selected = subject(spec.get("subject"), rule_format, of_spec["subject"] or {}, problems)
    placement = _placement(spec, kind, problems)
    read = {
        direction: rules(spec, direction, rule_format, of_spec[direction.api_name.lower()] or {}, problems)
        for direction in Direction
    }
    is_closed = placement is None or not (body.mapping().keys() <= schema.keys() and spec.mapping().keys() <= of_spec.keys())
    if is_closed:
        read = {direction: [rule.closed() for rule in found] for direction, found in read.items()}
    tier, priority = placement or _FIRST
    policy = ClusterNetworkPolicy(
        name=name or "",
        tier=tier,
        priority=priority,
        subject=selected or _NO_SUBJECT,
        ingress=tuple(one.rule for one in read[Direction.INGRESS]),
        egress=tuple(one.rule for one in read[Direction.EGRESS]),
        kind=kind,
        deny_with=deny_with(body.get("metadata"), problems.add),
        enforcement=enforcement(body.get("metadata"), problems.add),
    )
    if not problems.count:
        return policy
    is_usable = is_known_version and name is not None and selected is not None
    raise DecodeError(
        body,
        problems,
        key=str(policy.key) if name else kind,
        partial=policy if is_usable else None,
        consequence=_consequence([*read[Direction.INGRESS], *read[Direction.EGRESS]], placement) if is_usable else "",
        is_cluster_wide=True,
    )


def _name(metadata: Field, kind: ClusterPolicyKind) -> str:
    field = metadata.get("name")
    name = object_name(field)
    if kind == "BaselineAdminNetworkPolicy" and name != BASELINE_ADMIN_NAME:
        raise field.error(f"must be {BASELINE_ADMIN_NAME}, not {shown(name)}")
    return name


def _placement(spec: Field, kind: ClusterPolicyKind, problems: Problems) -> Placement | None:
    """The placement of a policy; None if it is not clear."""
    if kind == "BaselineAdminNetworkPolicy":
        return Placement(Tier.BASELINE, BASELINE_ADMIN_PRIORITY)
    tier = Tier.ADMIN if kind == "AdminNetworkPolicy" else read_or(_tier, spec.get("tier"), problems.add, None)
    priority = read_or(_priority, spec.get("priority"), problems.add, None)
    return None if tier is None or priority is None else Placement(tier, priority)


def _tier(field: Field) -> Tier:
    text = field.text()
    if text not in _TIERS:
        raise field.error(f"must be Admin or Baseline, not {shown(field.value)}")
    return _TIERS[text]


def _priority(field: Field) -> int:
    value = field.value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_PRIORITY:
        raise field.error(f"must be a number from 0 to {MAX_PRIORITY}, not {shown(value)}")
    return value


def _consequence(found: list[ReadRule], placement: Placement | None) -> str:
    effects = [rule.effect for rule in found if rule.is_closed]
    if not effects:
        return "the rest of the policy is used"
    first = ["evaluated first of all policies"] if placement is None else []
    more = [f"{len(effects) - MAX_SHOWN_EFFECTS} more rules in the same way"] if len(effects) > MAX_SHOWN_EFFECTS else []
    return "; ".join([*first, *effects[:MAX_SHOWN_EFFECTS], *more])
