"""Which pods are one workload, and its name."""

import pytest

from netpolq.addresses import parse_address
from netpolq.model import Pod, Update
from netpolq.reachability.grouping import By, groups_of, outside_group, without_own_address
from netpolq.store import Store

Labels = dict[str, str]


def store_of_pods(*pods: Pod) -> Store:
    store = Store()
    store.apply(Update(upserted=pods, ignored={}, observed_ns=0))
    return store


def named(*pods: tuple[str, Labels], by: By = By.WORKLOAD) -> dict[str, tuple[str, ...]]:
    """The pods of each group. A pod is given as namespace/name."""
    objects = []
    for number, (text, labels) in enumerate(pods, 1):
        namespace, name = text.split("/")
        objects.append(Pod(namespace=namespace, name=name, labels=labels, ips=(parse_address(f"10.0.0.{number}"),)))
    return {group.name: group.pods for group in groups_of(store_of_pods(*objects), by)}


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("web-5d4f-x7k2p", {"app": "web", "pod-template-hash": "5d4f"}, "shop/web"),
        ("db-0", {"app": "db", "statefulset.kubernetes.io/pod-name": "db-0", "apps.kubernetes.io/pod-index": "0"}, "shop/db"),
        ("agent-x7k2p", {"app": "agent", "controller-revision-hash": "5d4f", "pod-template-generation": "1"}, "shop/agent"),
        ("backup-x7k2p", {"batch.kubernetes.io/job-name": "backup", "job-name": "backup"}, "shop/backup"),
        ("debug", {}, "shop/debug"),
        ("a-pod-x7k2p", {"app": "a"}, "shop/a-pod-x7k2p"),
    ],
)
def test_labels_of_controllers_tell_the_name_of_the_workload(name: str, labels: Labels, expected: str) -> None:
    """Without them, the name of a single pod is that of the workload."""
    assert named((f"shop/{name}", labels)) == {expected: (f"shop/{name}",)}


def test_pods_of_two_revisions_of_a_deployment_are_one_workload() -> None:
    pods = [(f"shop/web-{revision}-x7k2p", {"app": "web", "pod-template-hash": revision}) for revision in ("5d4f", "77c9")]
    assert list(named(*pods)) == ["shop/web"]


def test_pods_with_equal_labels_have_the_common_beginning_of_their_names() -> None:
    labels = {"app": "web"}
    assert named(("shop/web-a", labels), ("shop/web-b", labels)) == {"shop/web": ("shop/web-a", "shop/web-b")}
    assert list(named(("shop/one", labels), ("shop/two", labels), ("ops/one", labels))) == ["ops/one", "shop/one"]


def test_pods_without_labels_are_told_apart_by_name() -> None:
    assert list(named(("shop/one", {}), ("shop/two", {}))) == ["shop/one", "shop/two"]


def test_workloads_of_one_name_are_told_apart_by_their_labels() -> None:
    pods = [
        ("shop/web-5d4f-a", {"app": "web", "pod-template-hash": "5d4f"}),
        ("shop/web-77c9-a", {"app": "web", "track": "canary", "pod-template-hash": "77c9"}),
    ]
    assert list(named(*pods)) == ["shop/web (no other labels)", "shop/web (track=canary)"]


def test_a_pod_named_like_a_workload_with_its_labels_is_another_one() -> None:
    pods = [("shop/web-5d4f-a", {"app": "web", "pod-template-hash": "5d4f"}), ("shop/web", {"app": "web"})]
    assert len(named(*pods)) == 2


def test_namespaces_can_be_the_groups() -> None:
    pods = named(("shop/one", {"app": "one"}), ("shop/two", {}), ("ops/three", {}), by=By.NAMESPACE)
    assert pods == {"ops": ("ops/three",), "shop": ("shop/one", "shop/two")}


def test_a_pod_without_an_address_is_in_no_group() -> None:
    node = parse_address("192.0.2.1")
    store = store_of_pods(
        Pod(namespace="shop", name="web", labels={}, ips=(parse_address("10.0.0.1"),)),
        Pod(namespace="shop", name="new", labels={}, ips=()),
        Pod(namespace="shop", name="proxy", labels={}, ips=(node,), host_ips=(node,), host_network=True),
    )
    assert [group.name for group in groups_of(store, By.WORKLOAD)] == ["shop/web"]
    assert without_own_address(store) == ("shop/new", "shop/proxy")


def test_a_namespace_called_outside_is_not_the_outside() -> None:
    store = store_of_pods(Pod(namespace="outside", name="web", labels={}, ips=(parse_address("10.0.0.1"),)))
    groups = groups_of(store, By.NAMESPACE)
    assert (groups[0].name, outside_group(groups, ()).name) == ("outside", "(outside)")
