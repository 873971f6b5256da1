"""Bodies of NetworkPolicies, and the errors of bodies that cannot be decoded."""

import pytest

from netpolq.sources.decode.decoder import DecodeError, decode


def policy_body(spec: object, **metadata: object) -> dict[str, object]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "shop"} | metadata,
        "spec": spec,
    }


def refusal(body: object) -> DecodeError:
    """The error of a body."""
    with pytest.raises(DecodeError) as caught:
        decode(body)
    return caught.value


def rule_refusal(rule: object) -> DecodeError:
    """The error of a NetworkPolicy with an ingress rule."""
    return refusal(policy_body({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]}))
