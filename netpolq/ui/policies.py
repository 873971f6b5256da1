"""Policies as the page shows them: whom they select, their rules in words, and how often each decided. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from netpolq.enums import Action, Direction, Tier
from netpolq.explain.known import Known
from netpolq.flows.record import time_text
from netpolq.model import ClusterNetworkPolicy, ClusterRule, NetworkPolicy, Pod, PolicyRule, Rejection, qualified_name
from netpolq.policy.rule_text import rule_text
from netpolq.policy.tier_policy import selects
from netpolq.sources.decode.kinds import CLUSTER_POLICIES
from netpolq.store import Store, reported_addresses
from netpolq.ui.state.hits import Hits, PolicyHits

MAX_EXAMPLES = 5
MAX_PROBLEM = 2000

Policy = NetworkPolicy | ClusterNetworkPolicy
Fields = dict[str, object]
Place = tuple[Direction, int]
"""Of a rule in its policy, as in decisions: direction and position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPolicy:
    """What does not change while the objects stay the same. `name`: in decisions. `policy`: None if nothing of it can be used. `rules`: the
    JSON fields of each, by its place.
    """

    id: str
    name: str
    policy: Policy | None
    fields: Fields
    rules: Mapping[Place, Fields] = field(default_factory=dict)


def policy_id(kind: str, namespace: str, name: str) -> str:
    """The id of a policy: KIND/NAMESPACE/NAME, or KIND/NAME."""
    return f"{kind}/{qualified_name(namespace, name)}"


def shown_policies(known: Known) -> tuple[ShownPolicy, ...]:
    """All policies of some objects, in the order of their evaluation, then those of which nothing can be used."""
    store = known.store
    groups = _pods_by_labels(store)
    problems = _problems(known.rejections)
    policies: list[Policy] = [
        *store.cluster_policies_of(Tier.ADMIN),
        *(store.policies[key] for key in sorted(store.policies)),
        *store.cluster_policies_of(Tier.BASELINE),
    ]
    shown = [_shown(known, policy, groups, problems) for policy in policies]
    ids = {one.id for one in shown}
    return (*shown, *(_unusable(key, problem) for key, problem in problems.items() if policy_id(*key) not in ids))


def policies_fields(shown: tuple[ShownPolicy, ...], found: Mapping[str, PolicyHits]) -> list[Fields]:
    """The policies as JSON fields, with what they decided."""
    return [_with_hits(one, found.get(one.name, _NEVER)) for one in shown]


_NEVER = PolicyHits()


def _with_hits(shown: ShownPolicy, found: PolicyHits) -> Fields:
    policy = shown.policy
    isolated: Fields = {direction.name.lower(): None for direction in (Direction.INGRESS, Direction.EGRESS)}
    if isinstance(policy, NetworkPolicy):
        isolated |= {
            direction.name.lower(): _hit_fields(found.isolated.get(direction, Hits())) for direction in policy.policy_types
        }
    return {
        **shown.fields,
        **_hit_fields(found.total),
        "isolated": isolated,
        "rules": [{**rule, **_hit_fields(found.rules.get(place, Hits()))} for place, rule in shown.rules.items()],
    }


def _hit_fields(hits: Hits) -> Fields:
    return {"connections": hits.connections, "last_hit": None if hits.last_s is None else time_text(hits.last_s)}


_Groups = Mapping[str, Mapping[frozenset[tuple[str, str]], list[Pod]]]


def _pods_by_labels(store: Store) -> _Groups:
    """The pods that own or may own addresses, by namespace and labels: pods of a workload are looked at once."""
    groups: dict[str, dict[frozenset[tuple[str, str]], list[Pod]]] = {}
    for pod in store.pods.values():
        if reported_addresses(pod) or not (pod.completed or pod.host_network):
            groups.setdefault(pod.namespace, {}).setdefault(frozenset(pod.labels.items()), []).append(pod)
    return groups


def _shown(known: Known, policy: Policy, groups: _Groups, problems: Mapping[tuple[str, str, str], str]) -> ShownPolicy:
    store, key = known.store, policy.key
    is_cluster_wide = isinstance(policy, ClusterNetworkPolicy)
    name = policy.qualified_name if isinstance(policy, ClusterNetworkPolicy) else qualified_name(policy.namespace, policy.name)
    fields: Fields = {
        "id": policy_id(*key),
        "kind": key.kind,
        "tier": (policy.tier if isinstance(policy, ClusterNetworkPolicy) else Tier.NETWORK_POLICY).label,
        "priority": policy.priority if isinstance(policy, ClusterNetworkPolicy) else None,
        "namespace": None if is_cluster_wide else key.namespace,
        "name": key.name,
        "audit": store.is_in_audit(policy, known.enforcement),
        "selects": _selected(store, policy, groups),
        "problem": problems.get((key.kind, key.namespace, key.name)),
    }
    return ShownPolicy(id=policy_id(*key), name=name, policy=policy, fields=fields, rules=dict(_rules(policy)))


def _selected(store: Store, policy: Policy, groups: _Groups) -> Fields:
    namespaces = [policy.namespace] if isinstance(policy, NetworkPolicy) else list(groups)
    count, examples = 0, list[str]()
    for namespace in namespaces:
        labels = store.namespace_labels(namespace)
        for pods in groups.get(namespace, {}).values():
            if selects(policy, labels, pods[0].labels):
                count += len(pods)
                examples += [qualified_name(pod.namespace, pod.name) for pod in pods[: MAX_EXAMPLES - len(examples)]]
    return {"pods": count, "examples": examples}


def _rules(policy: Policy) -> Iterator[tuple[Place, Fields]]:
    for direction in (Direction.INGRESS, Direction.EGRESS):
        rules: Sequence[PolicyRule | ClusterRule] = policy.rules(direction)
        for index, rule in enumerate(rules):
            name, action = (rule.name, rule.action) if isinstance(rule, ClusterRule) else ("", Action.ACCEPT)
            fields: Fields = {
                "direction": direction.name.lower(),
                "index": index,
                "name": name,
                "action": action.name.lower(),
                "text": rule_text(rule, direction, policy.key.namespace),
            }
            yield (direction, index), fields


def _problems(rejections: tuple[Rejection, ...]) -> dict[tuple[str, str, str], str]:
    """What is wrong with policies, by kind, namespace and name."""
    found: dict[tuple[str, str, str], str] = {}
    for rejection in rejections:
        kind, _space, name = rejection.key.partition(" ")
        if kind != "NetworkPolicy" and kind not in CLUSTER_POLICIES:
            continue
        namespace, _slash, plain = name.rpartition("/")
        parts = [": ".join(filter(None, (rejection.field, rejection.message))), *rejection.further]
        text = f"{'; '.join(parts)} ({rejection.consequence})"
        where = f"{rejection.origin}: " if rejection.origin else ""
        found.setdefault((kind, namespace, plain), f"{where}{text}"[:MAX_PROBLEM])
    return found


def _unusable(key: tuple[str, str, str], problem: str) -> ShownPolicy:
    kind, namespace, name = key
    fields: Fields = {
        "id": policy_id(*key),
        "kind": kind,
        "tier": Tier.NETWORK_POLICY.label if kind == "NetworkPolicy" else Tier.ADMIN.label,
        "priority": None,
        "namespace": namespace or None,
        "name": name,
        "audit": False,
        "selects": {"pods": 0, "examples": []},
        "problem": problem,
    }
    return ShownPolicy(id=policy_id(*key), name=qualified_name(namespace, name), policy=None, fields=fields)
