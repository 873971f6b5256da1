"""The document of `netpolq pods`, and its text."""

import json

from dataclasses import replace

import pytest

from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import Direction
from netpolq.model import ClusterNetworkPolicy, NetworkPolicy, ObjectKey, Pod, Update
from netpolq.sources.decode.decoder import decode as decode_object
from netpolq.supervisor.pods_report import LocalPods, decode, encode, local_pods, matching, render_json, render_text
from tests.support.cluster_policies import cluster_policy, rule
from tests.support.compiled import Compilation

EARLY = parse_address("10.0.0.2")


def pod(name: str, *addresses: str, node: str = "here", **labels: str) -> object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": labels},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


def network_policy(name: str, *types: str, **match_labels: str) -> object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"podSelector": {"matchLabels": match_labels}, "policyTypes": list(types)},
    }


def update(*bodies: object) -> Update:
    objects = [decode_object(body) for body in bodies]
    found = tuple(item for item in objects if isinstance(item, Pod | NetworkPolicy | ClusterNetworkPolicy))
    assert len(found) == len(bodies)
    return Update(upserted=found, ignored={}, observed_ns=0)


@pytest.fixture
def compilation() -> Compilation:
    """Two local pods and one elsewhere; web is isolated by two policies, and both have cluster-wide policies."""
    compilation = Compilation(is_local=lambda pod: pod.node_name == "here")
    compilation.store.apply(
        update(
            pod("web", "10.0.0.1", "fd00::1", app="web"),
            pod("db", "10.0.0.2", app="db"),
            pod("far", "10.0.1.1", node="there", app="web"),
            network_policy("closed", "Ingress", "Egress", app="web"),
            network_policy("another", "Ingress", app="web"),
            network_policy("unused", "Ingress", app="other"),
            cluster_policy("names", egress=[rule("Accept", {"domainNames": ["*.example.com"]})]),
            cluster_policy("base", tier="Baseline", ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}], egress=[rule()]),
        )
    )
    compilation.update()
    return compilation


def document(compilation: Compilation) -> LocalPods:
    def early(key: ObjectKey) -> tuple[AddressKey, ...]:
        return (EARLY,) if key.name == "db" else ()

    pods = local_pods(compilation.compiler, early)
    return LocalPods(version="1.2.3", compiled=True, snapshot_version=7, in_force_version=7, pods=pods)


def test_each_local_pod_has_its_addresses_and_what_decides_for_it(compilation: Compilation) -> None:
    """The policy that selects no local pod, and the pod of another node, are not there."""
    assert render_text(document(compilation)).splitlines() == [
        "POD       ADDRESSES              INGRESS                      EGRESS              "
        "CLUSTER-WIDE POLICIES                                 DNS",
        "shop/db   10.0.0.2 (CNI result)  not isolated                 not isolated        "
        "admin names (egress), baseline base (ingress+egress)  read",
        "shop/web  10.0.0.1, fd00::1      isolated by another, closed  isolated by closed  "
        "admin names (egress), baseline base (ingress+egress)  read",
    ]


def test_the_document_arrives_as_it_was_sent_and_has_the_keys_that_programs_rely_on(compilation: Compilation) -> None:
    sent = document(compilation)
    assert decode(encode(sent)) == sent
    found = json.loads(render_json(sent))
    assert {key: found[key] for key in found if key != "pods"} == {
        "version": "1.2.3",
        "compiled": True,
        "snapshot_version": 7,
        "in_force_version": 7,
    }
    assert found["pods"][1] == {
        "namespace": "shop",
        "name": "web",
        "addresses": [{"address": "10.0.0.1", "source": "api"}, {"address": "fd00::1", "source": "api"}],
        "ingress": {
            "isolated": True,
            "network_policies": ["shop/another", "shop/closed"],
            "cluster_policies": [{"tier": "baseline", "name": "base"}],
        },
        "egress": {
            "isolated": True,
            "network_policies": ["shop/closed"],
            "cluster_policies": [{"tier": "admin", "name": "names"}, {"tier": "baseline", "name": "base"}],
        },
        "reads_dns": True,
    }


def test_the_document_says_what_the_snapshot_says(compilation: Compilation) -> None:
    with_names = {f"{pod.namespace}/{pod.name}": pod for pod in document(compilation).pods}
    view = compilation.view()
    for name, addresses in {"shop/web": ("10.0.0.1", "fd00::1"), "shop/db": ("10.0.0.2",)}.items():
        for address in addresses:
            programs = view.programs(parse_address(address))
            for direction, side in ((Direction.INGRESS, with_names[name].ingress), (Direction.EGRESS, with_names[name].egress)):
                assert view.isolated_by(programs[direction]) == tuple(side.network_policies)


def test_the_compiled_state_is_told_and_not_what_the_store_has_since(compilation: Compilation) -> None:
    before = document(compilation)
    compilation.store.apply(update(network_policy("new", "Ingress", app="db"), pod("db", "10.0.0.2", "10.0.0.3", app="db")))
    assert document(compilation) == before
    compilation.update()
    db = document(compilation).pods[0]
    assert db.ingress.network_policies == ["shop/new"]
    assert [each.address for each in db.addresses] == ["10.0.0.2", "10.0.0.3"]
    compilation.store.apply(Update(deleted=(ObjectKey("Pod", "shop", "db"),), ignored={}, observed_ns=0))
    assert [each.name for each in document(compilation).pods] == ["web"], "it has left, and its program follows"


def test_many_policies_are_cut_unless_one_pod_is_shown(compilation: Compilation) -> None:
    compilation.store.apply(update(*(network_policy(f"p{number}", "Ingress", app="web") for number in range(5))))
    compilation.update()
    several = document(compilation)
    assert "isolated by another, closed, p0, 4 more  " in render_text(several)
    one = replace(several, pods=matching(several.pods, "shop", "web"))
    assert "isolated by another, closed, p0, p1, p2, p3, p4  " in render_text(one)


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [("", "", ["db", "web"]), ("shop", "", ["db", "web"]), ("shop", "db", ["db"]), ("shop", "far", []), ("sho", "", [])],
)
def test_namespace_and_name_select(compilation: Compilation, namespace: str, name: str, expected: list[str]) -> None:
    assert [pod.name for pod in matching(document(compilation).pods, namespace, name)] == expected


def test_a_version_that_is_not_in_force_and_a_supervisor_that_has_not_compiled_are_told(compilation: Compilation) -> None:
    found = document(compilation)
    assert render_text(found).startswith("POD ")
    assert render_text(replace(found, in_force_version=6)).startswith("Version 7 is shown; version 6 is in force")
    assert render_text(replace(found, compiled=False, pods=[])).startswith("No policies are compiled")


@pytest.mark.parametrize(
    "data",
    [b"[]", b"{}", b'{"pods": [1]}', b'{"pods": [{"addresses": [{}]}]}', b'{"pods": [], "compiled": true}', b'{"pods": null}'],
)
def test_another_document_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a document of pods"):
        decode(data)
