"""Manifests that are written from the model: decoded, they are the same policy."""

import random

from collections.abc import Iterator

import yaml

from netpolq.model import ClusterNetworkPolicy, NetworkPolicy
from netpolq.sources.decode.decoder import DecodeError, decode
from netpolq.ui.manifest import manifest_text
from tests.support.clusters import _policy
from tests.support.random_cluster_policies import random_cluster_policy

SEEDS = 400


def decodable() -> Iterator[NetworkPolicy | ClusterNetworkPolicy]:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        for body in (_policy(rng, seed, "shop"), random_cluster_policy(rng, seed, with_unclear_rules=False)):
            try:
                policy = decode(body)
            except DecodeError:
                continue
            assert isinstance(policy, NetworkPolicy | ClusterNetworkPolicy)
            yield policy


def test_decoding_a_written_manifest_gives_the_same_policy() -> None:
    policies = list(decodable())
    kinds = {policy.key.kind for policy in policies}
    assert kinds == {"NetworkPolicy", "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"}
    assert len(policies) > SEEDS
    for policy in policies:
        text = manifest_text(policy, ("a comment",))
        assert text.startswith("# a comment\n")
        assert decode(yaml.safe_load(text)) == policy, text
