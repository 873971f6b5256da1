"""Which pods are one workload, and what is known about it."""

import pytest

from netpolq.addresses import parse_address
from netpolq.enums import Protocol
from netpolq.model import Labels, NamedPort, Pod
from netpolq.recommendation.workloads import KnownPods, Workload, named_ports, same_labels_note

HTTP = NamedPort("http", Protocol.TCP, 8080)


def known(*pods: tuple[str, dict[str, str]]) -> KnownPods:
    found = KnownPods()
    for number, (name, labels) in enumerate(pods, 1):
        found.add("shop", name, Labels(labels), (parse_address(f"10.0.0.{number}"),))
    return found


@pytest.mark.parametrize(
    "label",
    [
        *("pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"),
        *("batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid", "job-name", "controller-uid"),
        *("app.kubernetes.io/version", "helm.sh/chart", "topology.kubernetes.io/zone", "rollouts-pod-template-hash"),
    ],
)
def test_labels_that_do_not_last_make_no_workload(label: str) -> None:
    pods = known(("web-1-a", {"app": "web", label: "1"}), ("web-2-b", {"app": "web", label: "2"}))
    assert list(pods.members) == [Workload("shop", (("app", "web"),))]


def test_controllers_with_equal_labels_are_named() -> None:
    pods = known(
        ("web-5d4f-a", {"app": "web", "pod-template-hash": "5d4f"}), ("api-77c9-a", {"app": "web", "pod-template-hash": "77c9"})
    )
    ((workload, members),) = pods.members.items()
    assert "the pods of api, web have equal labels" in same_labels_note(workload, members)


def test_pods_of_several_jobs_are_no_reason_for_a_note() -> None:
    pods = known(*((f"backup-{number}-x", {"app": "backup", "job-name": f"backup-{number}"}) for number in range(3)))
    ((workload, members),) = pods.members.items()
    assert same_labels_note(workload, members) == ""


def test_pods_without_labels_are_one_workload_with_a_note() -> None:
    pods = known(*((f"pod-{number}", {}) for number in range(5)))
    ((workload, members),) = pods.members.items()
    assert same_labels_note(workload, members).startswith("shop/pod-0, pod-1, pod-2 and 2 more: without labels")


def test_an_address_of_two_workloads_has_no_owner() -> None:
    pods = known(("web", {"app": "web"}), ("db", {"app": "db"}))
    assert pods.owner(parse_address("10.0.0.1")) == Workload("shop", (("app", "web"),))
    pods.add("shop", "new", Labels(app="new"), (parse_address("10.0.0.1"),))
    assert pods.owner(parse_address("10.0.0.1")) is None
    assert pods.owner(parse_address("10.0.0.9")) is None


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ([(HTTP,), (HTTP,)], {(Protocol.TCP, 8080): "http"}),
        ([(HTTP,), ()], {}),
        ([(HTTP,), (HTTP._replace(port=8081),)], {}),
        ([(HTTP, HTTP._replace(name="web"))], {}),
        ([(HTTP, HTTP._replace(port=8081))], {}),
        ([(HTTP, HTTP._replace(protocol=Protocol.UDP))], {(Protocol.TCP, 8080): "http", (Protocol.UDP, 8080): "http"}),
        ([], {}),
    ],
)
def test_a_name_stands_for_a_port_if_it_means_that_one_alone_in_all_pods(
    declared: list[tuple[NamedPort, ...]], expected: dict[tuple[Protocol, int], str]
) -> None:
    pods = KnownPods()
    pods.add_manifests(
        Pod(namespace="shop", name=f"web-{number}", labels={"app": "web"}, ips=(), named_ports=ports)
        for number, ports in enumerate(declared)
    )
    for members in pods.members.values():
        assert named_ports(members) == expected


def test_pods_of_the_host_network_are_not_known() -> None:
    pods = KnownPods()
    pods.add_manifests([Pod(namespace="shop", name="agent", labels={"app": "agent"}, ips=(), host_network=True)])
    assert pods.members == {}


@pytest.mark.parametrize(
    ("namespace", "labels", "expected"),
    [
        ("kube-system", {"k8s-app": "kube-dns"}, True),
        ("kube-system", {"app.kubernetes.io/name": "coredns", "x": "1"}, True),
        ("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}, True),
        ("shop", {"k8s-app": "kube-dns"}, False),
        ("kube-system", {"k8s-app": "metrics-server"}, False),
    ],
)
def test_cluster_dns_is_known_by_namespace_and_label(namespace: str, labels: dict[str, str], expected: bool) -> None:
    assert Workload(namespace, tuple(sorted(labels.items()))).is_dns is expected
