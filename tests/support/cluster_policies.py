"""Bodies of cluster-wide policies, and their decoding."""

from collections.abc import Sequence

import pytest

from netpolq.model import ClusterNetworkPolicy
from netpolq.sources.decode.decoder import DecodeError, decode, decode_all

Body = dict[str, object]

GROUP = "policy.networking.k8s.io"
EVERY_NAMESPACE: Body = {"namespaces": {}}


def cluster_policy(
    name: str = "guard",
    *,
    version: str = "v1alpha2",
    ingress: Sequence[object] | None = None,
    egress: Sequence[object] | None = None,
    **spec: object,
) -> Body:
    """A ClusterNetworkPolicy of the Admin tier with priority 5 that selects every pod. `spec`: other fields, or replacements."""
    return {
        "apiVersion": f"{GROUP}/{version}",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 5, "subject": EVERY_NAMESPACE, **_rules(ingress, egress), **spec},
    }


def admin_policy(
    name: str = "guard", *, ingress: Sequence[object] | None = None, egress: Sequence[object] | None = None, **spec: object
) -> Body:
    """An AdminNetworkPolicy with priority 5 that selects every pod."""
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"priority": 5, "subject": EVERY_NAMESPACE, **_rules(ingress, egress), **spec},
    }


def baseline_policy(*, ingress: Sequence[object] | None = None, egress: Sequence[object] | None = None, **spec: object) -> Body:
    """The BaselineAdminNetworkPolicy, which selects every pod."""
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "BaselineAdminNetworkPolicy",
        "metadata": {"name": "default"},
        "spec": {"subject": EVERY_NAMESPACE, **_rules(ingress, egress), **spec},
    }


def _rules(ingress: Sequence[object] | None, egress: Sequence[object] | None) -> Body:
    return {name: rules for name, rules in (("ingress", ingress), ("egress", egress)) if rules is not None}


def rule(action: object = "Deny", *peers: object, **fields: object) -> Body:
    """An egress rule; to every namespace without peers."""
    return {"action": action, "to": list(peers) or [EVERY_NAMESPACE], **fields}


def node(name: str, *addresses: str, **labels: str) -> Body:
    """A Node with addresses."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def decoded(body: object) -> ClusterNetworkPolicy:
    """The policy of a valid body, the same from the API server and from a manifest."""
    found = decode(body)
    assert isinstance(found, ClusterNetworkPolicy)
    assert list(decode_all(body)) == [found]
    return found


def refusal(body: object) -> DecodeError:
    """The error of a body, the same from the API server and from a manifest."""
    with pytest.raises(DecodeError) as caught:
        decode(body)
    (of_manifest,) = decode_all(body)
    assert isinstance(of_manifest, DecodeError)
    assert (of_manifest.rejection(), of_manifest.partial) == (caught.value.rejection(), caught.value.partial)
    assert caught.value.is_cluster_wide
    assert caught.value.namespaces == ()
    return caught.value


def paths(error: DecodeError) -> list[str]:
    """The paths of all fields that an error names."""
    return [error.field, *(text.partition(":")[0] for text in error.further)]
