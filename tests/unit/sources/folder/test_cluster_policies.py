"""Manifests of cluster-wide policies and nodes: what of them is in force, reported and retained."""

import json

from pathlib import Path

import pytest

from netpolq.enums import Action
from netpolq.model import ClusterNetworkPolicy, ClusterRule
from netpolq.sources.folder.contents import VANISHED_NS
from netpolq.sources.folder.retained import LAST_GOOD
from netpolq.store import Store
from tests.support.cluster_policies import EVERY_NAMESPACE, GROUP, Body, admin_policy, baseline_policy, cluster_policy, rule
from tests.support.manifest_texts import BAD_RULE, policy
from tests.unit.sources.folder.test_contents import Scans

NODE: Body = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n"},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
}
DENY = rule("Deny")
ACCEPT = rule("Accept")
DENY_EVERYTHING = ClusterRule(Action.DENY)


def manifest(*bodies: object) -> str:
    return "\n---\n".join(json.dumps(body) for body in bodies)


def egress(store: Store, name: str = "guard") -> list[ClusterRule]:
    return list(store.cluster_policies[name].egress)


def actions(found: ClusterNetworkPolicy) -> list[Action]:
    """The actions of the egress rules that match something."""
    return [one.action for one in found.egress if one.peers != ()]


def scans_of(folder: Path, text: str) -> Scans:
    (folder / "a.yaml").write_text(text)
    scans = Scans(folder)
    scans.after()
    return scans


def rewritten(scans: Scans, folder: Path, text: str) -> None:
    (folder / "a.yaml").write_text(text)
    scans.after()
    scans.after()


def is_unready(store: Store) -> bool:
    return any(rejection.leaves_open for rejection in store.rejections)


def test_all_kinds_are_read_and_none_of_them_is_counted_as_ignored(tmp_path: Path) -> None:
    listed = {
        "apiVersion": f"{GROUP}/v1beta1",
        "kind": "ClusterNetworkPolicyList",
        "items": [cluster_policy("listed", version="v1beta1")],
    }
    other = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "CIDRGroup", "metadata": {"name": "x"}}
    store = scans_of(tmp_path, manifest(cluster_policy(), listed, admin_policy(), baseline_policy(), NODE, other)).store
    assert set(store.cluster_policies) == {"guard", "listed", "AdminNetworkPolicy/guard", "BaselineAdminNetworkPolicy/default"}
    assert set(store.nodes) == {"n"}
    assert store.rejections == ()
    assert store.ignored == {"CIDRGroup": 1}


def test_a_policy_of_a_deleted_file_goes_and_one_that_moves_stays(tmp_path: Path) -> None:
    scans = scans_of(tmp_path, manifest(cluster_policy("moves", egress=[DENY]), cluster_policy("goes"), NODE))
    (tmp_path / "b.yaml").write_text(manifest(cluster_policy("moves", egress=[DENY])))
    (tmp_path / "a.yaml").unlink()
    deleted = [str(key) for _ in range(3) if (update := scans.after(VANISHED_NS)) is not None for key in update.deleted]
    assert sorted(deleted) == ["ClusterNetworkPolicy goes", "Node n"]
    assert set(scans.store.cluster_policies) == {"moves"}
    assert scans.store.nodes == {}


def test_the_first_of_two_policies_of_one_name_is_used_and_kinds_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(manifest(cluster_policy(egress=[ACCEPT]), admin_policy()))
    store = scans_of(tmp_path, manifest(cluster_policy(egress=[DENY]))).store
    assert actions(store.cluster_policies["guard"]) == [Action.DENY]
    assert "AdminNetworkPolicy/guard" in store.cluster_policies
    assert [rejection.key for rejection in store.rejections] == ["ClusterNetworkPolicy guard"]


SPEC: Body = {"tier": "Admin", "priority": 1, "subject": EVERY_NAMESPACE, "egress": [DENY]}


@pytest.mark.parametrize(
    ("version", "kind", "intended"),
    [
        (f"{GROUP}/v1alpha2", "ClusterNetworkPolicies", f"ClusterNetworkPolicy of {GROUP}/v1alpha2"),
        (f"{GROUP}/v1beta1", "clusternetworkpolicy", f"ClusterNetworkPolicy of {GROUP}/v1beta1"),
        (f"{GROUP}/v1alpha2", "ClusterNetworkPolcy", f"ClusterNetworkPolicy of {GROUP}/v1alpha2"),
        (f"{GROUP}/v1alpha1", "AdminNetworkPolice", f"AdminNetworkPolicy of {GROUP}/v1alpha1"),
        (f"{GROUP}/v1alpha1", "BaselineAdminNetworkPolicys", f"BaselineAdminNetworkPolicy of {GROUP}/v1alpha1"),
        (f"{GROUP}/v1alpha1", "AdminNetworkPolicysList", f"AdminNetworkPolicyList of {GROUP}/v1alpha1"),
        ("networking.k8s.io/v1", "ClusterNetworkPolicys", f"ClusterNetworkPolicy of {GROUP}/v1beta1"),
        (f"{GROUP}/v1alpha2", "Cnp", f"ClusterNetworkPolicy of {GROUP}/v1alpha2"),
        ("v1", "Nodes", "Node of v1"),
    ],
)
def test_a_misspelled_kind_is_reported_and_isolates_nothing(tmp_path: Path, version: str, kind: str, intended: str) -> None:
    store = scans_of(tmp_path, manifest({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": SPEC})).store
    (rejection,) = store.rejections
    assert f"did you mean {intended}?" in str(rejection)
    assert rejection.consequence == "it is not used"
    assert (store.policies, store.cluster_policies, store.ignored, is_unready(store)) == ({}, {}, {}, False)


@pytest.mark.parametrize(
    "version",
    ["policy.networking.k8s.io/v1", "networking.k8s.io/v1", "policy.networking.k8s/v1alpha2", "policy/v1", "v1", "networking/v1"],
)  # fmt: skip
def test_a_misspelled_group_or_version_is_reported(tmp_path: Path, version: str) -> None:
    store = scans_of(tmp_path, manifest(cluster_policy(egress=[DENY]) | {"apiVersion": version})).store
    (rejection,) = store.rejections
    assert rejection.field == "apiVersion"
    assert (store.policies, store.cluster_policies, store.ignored, is_unready(store)) == ({}, {}, {}, False)


NEVER_READABLE = [
    manifest(cluster_policy(egress=[DENY], subject={})),
    manifest(cluster_policy(egress=[DENY]) | {"metadata": {}}),
    manifest(cluster_policy(egress=[DENY])).replace('"kind"', '"kind": "ClusterNetworkPolicy", "kind"'),
    manifest(cluster_policy(egress=[DENY])).replace('"priority"', '"priority": 7, "priority"'),
    manifest(cluster_policy(egress=[DENY]))[:-1],
    f"apiVersion: {GROUP}/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {{{{ .name }}}}}}\n",
    f"apiVersion: {GROUP}/v1alpha2\nkind: ClusterNetworkPolicyList\nitems: 3\n",
    f"apiVersion: {GROUP}/v1alpha2\nkind: ClusterNetworkPolicyList\nmetadata: {{foo: 1}}\n",
]  # fmt: skip


@pytest.mark.parametrize("text", NEVER_READABLE)
def test_a_policy_that_was_never_readable_is_reported_and_denies_nothing(tmp_path: Path, text: str) -> None:
    """It isolates no namespace either, and the agent is ready."""
    store = scans_of(tmp_path, text).store
    assert store.rejections
    assert {rejection.consequence for rejection in store.rejections} == {"it is not used"}
    assert (store.policies, store.cluster_policies, is_unready(store)) == ({}, {}, False)


@pytest.mark.parametrize("text", [*NEVER_READABLE, manifest(cluster_policy(egress=[rule("Accept", {"foo": 1})])), "", "kind: ["])
def test_a_policy_stays_in_force_while_its_new_version_cannot_be_read(tmp_path: Path, text: str) -> None:
    scans = scans_of(tmp_path, manifest(cluster_policy(egress=[ACCEPT, DENY])))
    before = dict(scans.store.cluster_policies)
    rewritten(scans, tmp_path, text)
    assert scans.store.cluster_policies == before
    assert not is_unready(scans.store)
    assert all("last good content stays in force" in rejection.consequence for rejection in scans.store.rejections)
    rewritten(scans, tmp_path, manifest(cluster_policy(egress=[ACCEPT])))
    assert scans.store.rejections == ()
    assert actions(scans.store.cluster_policies["guard"]) == [Action.ACCEPT]


def test_a_rule_that_cannot_be_read_fails_closed_on_first_sight(tmp_path: Path) -> None:
    store = scans_of(tmp_path, manifest(cluster_policy(egress=[ACCEPT, rule("Pass", {"foo": 1})]))).store
    assert egress(store)[1] == DENY_EVERYTHING
    assert actions(store.cluster_policies["guard"]) == [Action.ACCEPT, Action.DENY]
    (rejection,) = store.rejections
    assert rejection.consequence == "spec.egress[1] denies everything"
    assert not is_unready(store)


def test_a_policy_that_a_broken_file_adds_only_denies_until_the_file_is_repaired(tmp_path: Path) -> None:
    """As a NetworkPolicy that a broken file adds isolates and admits nothing."""
    scans = scans_of(tmp_path, manifest(cluster_policy("old", egress=[ACCEPT])))
    added = manifest(cluster_policy("old", egress=[ACCEPT]), cluster_policy("new", egress=[ACCEPT, rule("Pass"), DENY]), NODE)
    rewritten(scans, tmp_path, f"{added}\n---\n{policy('p', BAD_RULE)}")
    placeholder = "new (as now in a.yaml)"
    assert set(scans.store.cluster_policies) == {"old", placeholder}
    assert actions(scans.store.cluster_policies["old"]) == [Action.ACCEPT]
    assert actions(scans.store.cluster_policies[placeholder]) == [Action.DENY]
    assert len(egress(scans.store, placeholder)) == 3
    assert set(scans.store.nodes) == {"n"}
    rewritten(scans, tmp_path, added)
    assert set(scans.store.cluster_policies) == {"old", "new"}
    assert actions(scans.store.cluster_policies["new"]) == [Action.ACCEPT, Action.PASS, Action.DENY]


def test_an_unreadable_file_isolates_no_namespace_of_its_cluster_wide_objects(tmp_path: Path) -> None:
    scans = scans_of(tmp_path, manifest(cluster_policy(egress=[DENY]), NODE))
    rewritten(scans, tmp_path, "\0")
    assert [rejection.consequence for rejection in scans.store.rejections] == [LAST_GOOD]
    assert scans.store.policies == {}
    assert set(scans.store.cluster_policies) == {"guard"}


@pytest.mark.parametrize(("namespace", "isolated"), [(None, "default"), ("shop", "shop")])
def test_a_broken_network_policy_beside_cluster_wide_ones_still_isolates(
    tmp_path: Path, namespace: str | None, isolated: str
) -> None:
    """The text names both kinds. It concerns the namespace of the NetworkPolicy alone."""
    metadata = {"name": "p"} | ({} if namespace is None else {"namespace": namespace})
    text = manifest(cluster_policy(), {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata})
    store = scans_of(tmp_path, text.replace("---\n", ",")).store
    assert [key[0] for key in store.policies] == [isolated]


def test_duplicate_keys_of_a_node_are_reported_and_its_addresses_are_used(tmp_path: Path) -> None:
    """A rule that denies nodes needs them."""
    store = scans_of(tmp_path, manifest(NODE).replace('"status"', '"spec": {}, "spec": {}, "status"')).store
    assert set(store.nodes) == {"n"}
    assert len(store.rejections) == 1
