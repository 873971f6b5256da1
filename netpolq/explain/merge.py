"""A new state of a cluster from an old one and objects that change it, for comparisons of both."""

from enum import StrEnum

from netpolq.explain.known import Known, Others
from netpolq.model import ClusterNetworkPolicy, NetworkPolicy, Object, Update
from netpolq.policy.excerpt import everything
from netpolq.store import Store


class NewHas(StrEnum):
    """What the new objects are. EVERYTHING: the whole new state. CHANGES: objects that are applied, as by `kubectl apply`: each replaces
    the one of its name, and the rest is that of the old state. POLICIES: the same, and the new objects have all NetworkPolicies of each
    namespace of which they have one or the Namespace, and all cluster-wide policies if they have one.
    """

    EVERYTHING = "everything"
    CHANGES = "changes"
    POLICIES = "policies"


def merged(old: Known, new: Known, new_has: NewHas) -> Known:
    """Return the new state. Both arguments stay as they are."""
    if new_has is NewHas.EVERYTHING:
        return new
    before, after = everything(old.store), everything(new.store)
    kept = tuple(item for item in before.objects if new_has is NewHas.CHANGES or not _is_replaced(item, new.store))
    store = Store()
    store.apply(Update(upserted=kept, ignored={}, observed_ns=0))
    store.apply(Update(upserted=tuple(after.objects), rejections=new.store.rejections, ignored=new.store.ignored, observed_ns=0))
    for address, names in {**before.names, **after.names}.items():
        store.set_names(address, names)
    others = Others()
    for known in (new, old):
        if known.others is not None:
            others.workloads |= {key: each for key, each in known.others.workloads.items() if key not in others.workloads}
    others.rejections = [] if new.others is None else list(new.others.rejections)
    return Known(store=store, origin=new.origin, deny_with=old.deny_with, others=others)


def _is_replaced(item: Object, new: Store) -> bool:
    """Whether the new objects have all policies among which an old object would be."""
    match item:
        case NetworkPolicy(namespace=namespace):
            return namespace in new.namespaces or any(of_policy == namespace for of_policy, _name in new.policies)
        case ClusterNetworkPolicy():
            return bool(new.cluster_policies)
        case _:
            return False
