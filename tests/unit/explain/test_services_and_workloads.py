"""Services and workloads as ends of a question."""

import json

from collections.abc import Callable
from pathlib import Path

import pytest

from netpolq import cli
from netpolq.errors import ExitCode

CLUSTER = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: a, containers: []}
status: {phase: Running, podIP: 10.0.0.1, hostIP: 192.168.0.1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db-0, labels: {app: db, role: main}}
spec: {nodeName: a, containers: [{name: db, ports: [{name: sql, containerPort: 5432}]}]}
status: {phase: Running, podIP: 10.0.0.2, hostIP: 192.168.0.1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db-1, labels: {app: db, role: replica}}
spec: {nodeName: a, containers: [{name: db, ports: [{name: sql, containerPort: 5433}]}]}
status: {phase: Running, podIP: 10.0.0.3, hostIP: 192.168.0.1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db-2, labels: {app: db, role: replica}}
spec: {nodeName: a, containers: [{name: db, ports: [{name: sql, containerPort: 5432}]}]}
status: {phase: Pending, podIP: 10.0.0.4, hostIP: 192.168.0.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: main}
spec:
  podSelector: {matchLabels: {role: main}}
  ingress: [{from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: sql}]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: db}
spec:
  clusterIP: 10.96.0.5
  clusterIPs: [10.96.0.5]
  externalIPs: [198.51.100.5]
  type: NodePort
  selector: {app: db}
  ports: [{name: main, port: 15432, targetPort: sql, nodePort: 30080}]
"""

SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: db-x, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: main, port: 5432, protocol: TCP}]
endpoints:
  - {addresses: [10.0.0.2], conditions: {ready: true}}
  - {addresses: [10.0.0.3], conditions: {ready: false}}
"""

API = """
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: shop, name: api}
spec:
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: api, ports: [{name: http, containerPort: 8080}]}]}
"""

Explain = Callable[..., str]


@pytest.fixture
def explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Asks about the cluster, and other manifests. Returns what is printed on both streams."""

    def ask(*words: str, code: ExitCode = ExitCode.OK, also: str = "") -> str:
        (tmp_path / "cluster.yaml").write_text(f"{CLUSTER}\n---\n{also}")
        found = cli.main(["explain", "--manifests", str(tmp_path), *words])
        printed = "".join(capsys.readouterr())
        assert found == code, printed
        assert "240.0.0" not in printed, "the address of a synthetic pod"
        return printed

    return ask


SERVICE_LINES = [
    "asked for    service shop/db, TCP port 15432 (main): 2 endpoints of its selector, 1 not ready",
    "verdict      mixed: 1 of 2 connections are allowed",
    "",
    "verdict      drop, denied: ingress is isolated by shop/main and nothing allows it",
    "source       10.0.0.1 (pod shop/web)",
    "destination  10.0.0.2 (pod shop/db-0), TCP port 5432",
    "egress       not isolated",
    "ingress      isolated by shop/main; no rule allows it",
    "             shop/main: spec.ingress[0]: peer: pod shop/web has app=web, podSelector wants app=api",
    '             to allow it: add {"podSelector":{"matchLabels":{"app":"web"}}} to spec.ingress[0].from of shop/main',
    "",
    "verdict      accept, not-isolated: no policy isolates either endpoint",
    "source       10.0.0.1 (pod shop/web)",
    "destination  10.0.0.3 (pod shop/db-1), TCP port 5433",
    "egress       not isolated",
    "ingress      not isolated",
]


@pytest.mark.parametrize(
    "destination",
    [
        ("--dst=service/shop/db", "--port=15432"),
        ("--dst=svc/shop/db:15432",),
        ("--dst=svc/shop/db:main",),
        ("--dst=svc/db",),
        ("--dst=10.96.0.5:15432",),
        ("--dst=198.51.100.5", "--port=main"),
        ("--dst=192.168.0.1", "--port=30080"),
        ("--dst=db.shop.svc.cluster.local", "--port=15432"),
        ("--dst=DB.shop.svc:main",),
    ],
    ids=str,
)
def test_each_endpoint_of_a_service_has_an_answer(explained: Explain, destination: tuple[str, ...]) -> None:
    assert explained("--src=shop/web", *destination).splitlines() == SERVICE_LINES
    explained("--src=shop/web", *destination, "--expect=allow", code=ExitCode.UNEXPECTED)
    explained("--src=shop/web", *destination, "--expect=deny", code=ExitCode.UNEXPECTED)


def test_json_has_the_service_and_the_answer_of_each_endpoint(explained: Explain) -> None:
    document = json.loads(explained("--src=shop/web", "--dst=svc/shop/db", "-o=json"))
    assert document["verdict"] == "mixed"
    assert document["service"] == {
        "namespace": "shop",
        "name": "db",
        "addresses": ["10.96.0.5", "198.51.100.5"],
        "port": {"name": "main", "protocol": "TCP", "port": 15432},
        "endpoints_of": "selector",
        "not_ready": 1,
    }
    assert [(answer["verdict"], answer["destination"]["pod"], answer["port"]) for answer in document["answers"]] == [
        ("drop", "shop/db-0", 5432),
        ("accept", "shop/db-1", 5433),
    ]


def test_endpoint_slices_come_before_the_selector(explained: Explain) -> None:
    lines = explained("--src=shop/web", "--dst=svc/shop/db", "--expect=deny", also=SLICE).splitlines()
    assert lines[:2] == [
        "asked for    service shop/db, TCP port 15432 (main): 1 endpoint of EndpointSlices, 1 not ready",
        "verdict      drop",
    ]
    assert "destination  10.0.0.2 (pod shop/db-0), TCP port 5432" in lines


def test_a_headless_service_only_gives_names(explained: Explain) -> None:
    headless = """{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: dbs},
        spec: {clusterIP: None, selector: {app: db}, ports: [{port: 1, targetPort: 2}]}}"""
    lines = explained("--src=shop/web", "--dst=dbs.shop.svc.cluster.local:5432", also=headless).splitlines()
    assert lines[0] == "asked for    service shop/dbs (headless): 2 endpoints of its selector, 1 not ready"
    assert "destination  10.0.0.3 (pod shop/db-1), TCP port 5432" in lines


def test_a_pod_that_reaches_itself_through_a_service_is_evaluated_as_such(explained: Explain) -> None:
    deny = """{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: closed}, spec: {tier: Admin,
        priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}"""
    direct = explained("--src=shop/db-0", "--dst=shop/db-0:5432", also=deny)
    assert "accept, same-address" in direct
    assert "drop, denied: ingress denied by admin closed" in explained("--src=shop/db-0", "--dst=svc/shop/db", also=deny)


@pytest.mark.parametrize(
    ("words", "also", "message"),
    [
        (("--dst=svc/shop/none:1",), "", "--dst: service shop/none does not exist in the manifests"),
        (("--dst=svc/none:1",), "", "--dst: service none does not exist in the manifests"),
        (("--dst=svc/shop/db:5432",), "", "--port: service shop/db has no TCP port 5432; its ports: TCP 15432 (main)"),
        (("--dst=svc/shop/db", "--protocol=UDP"), "", "--port: required, for service shop/db has 0 UDP ports; its ports: TCP 15432 (main)"),
        (("--dst=svc/shop/db", "--protocol=ICMP"), "", "--protocol: service shop/db has ports of TCP, UDP and SCTP only"),
        (("--dst=shop/db:1",), "", "--dst: pod shop/db does not exist in the manifests; did you mean service/shop/db?"),
        (("--dst=svc/db",), "{apiVersion: v1, kind: Service, metadata: {namespace: b, name: db}, spec: {}}",
         "--dst: service db exists in several namespaces (b, shop); give svc/NAMESPACE/db"),
        (("--dst=svc/shop/ext:1",), "{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: ext}, spec: {type: ExternalName, "
         "externalName: www.example.com}}", "--dst: service shop/ext is of type ExternalName; ask about --dst www.example.com"),
        (("--dst=svc/shop/hand:1",), "{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: hand}, spec: {ports: [{port: 1}]}}",
         "--dst: service shop/hand has no ready endpoint and no selector, so no connection to it can succeed; policies do not decide"),
        (("--dst=none.shop.svc.cluster.local:1",), "", "--dst: no address of none.shop.svc.cluster.local is known to the manifests"),
        (("--dst=10.0.0.1:http",), "", "--port: pod shop/web has no TCP port named 'http'"),
    ],
)  # fmt: skip
def test_errors_name_flag_and_object(explained: Explain, words: tuple[str, ...], also: str, message: str) -> None:
    assert message in explained("--src=shop/web", *words, code=ExitCode.FAILED, also=also)


def test_a_service_is_no_client(explained: Explain) -> None:
    assert "--src: service shop/db is no client" in explained("--src=svc/shop/db", "--dst=shop/web:1", code=ExitCode.FAILED)
    assert "--src: the domain name a.example is no client" in explained(
        "--src=a.example", "--dst=shop/web:1", code=ExitCode.FAILED
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: x}, spec: {ports: [{port: 70000}]}}",
         "Service shop/x: spec.ports[0].port: must be between 1 and 65535, not 70000 (it is not used)"),
        ("{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: x}, spec: {clusterIP: 1.2.3}}",
         "Service shop/x: spec.clusterIP: must be an IP address, not '1.2.3' (it is not used)"),
        ("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: X}}",
         "EndpointSlice: metadata.name: must be a DNS subdomain"),
        ("{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {}}",
         "Deployment default/x: spec.template: a pod template is required (it is not used)"),
        ("{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, spec: {jobTemplate: {spec: {template: {spec: {containers: 1}}}}}}",
         "CronJob default/x: spec.jobTemplate.spec.template.spec.containers: must be a list, not 1 (it is not used)"),
        ("{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {}, status: {}, status: {}}",
         "service default/x: line 47, column 76: the key 'status' occurs twice in one object (it is not used)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_reported_and_not_used(explained: Explain, broken: str, message: str) -> None:
    assert message in explained("--src=shop/web", "--dst=10.0.0.2:1", also=broken)


def test_a_workload_without_pods_is_evaluated_by_its_template(explained: Explain) -> None:
    for name in ("deployment/shop/api", "deploy/shop/api", "deploy/api", "Deployments/shop/api"):
        assert explained(f"--src={name}", "--dst=svc/shop/db", "--expect=allow", also=API).splitlines()[3:8] == [
            "verdict      accept, allowed: every isolated endpoint allows it",
            "source       deployment shop/api (its pod template, without an address)",
            "destination  10.0.0.2 (pod shop/db-0), TCP port 5432",
            "egress       not isolated",
            "ingress      isolated by shop/main; allowed by shop/main, spec.ingress[0]",
        ]
    document = json.loads(explained("--src=shop/web", "--dst=deploy/shop/api:http", "-o=json", also=API))
    assert document["destination"] == {
        "address": None, "pod": None, "nodes": [], "workload": {"kind": "Deployment", "namespace": "shop", "name": "api"},
    }  # fmt: skip
    assert document["port"] == 8080


def test_address_blocks_do_not_count_for_a_workload_without_pods(explained: Explain) -> None:
    blocks = """{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: blocks}, spec: {podSelector:
        {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}"""
    lines = explained("--src=deploy/shop/api", "--dst=shop/web:80", also=f"{API}\n---\n{blocks}").splitlines()
    assert (
        "             shop/blocks: spec.ingress[0]: peer: an address of deployment shop/api is not in ipBlock 10.0.0.0/8" in lines
    )
    assert lines[-1] == (
        "note         the addresses of deployment shop/api are not known: no address block of a policy but those of all addresses counts "
        "for them"
    )
    everything = blocks.replace("10.0.0.0/8", "0.0.0.0/0")
    explained("--src=deploy/shop/api", "--dst=shop/web:80", "--expect=allow", also=f"{API}\n---\n{everything}")


def test_a_pod_with_the_labels_of_the_template_stands_for_its_workload(explained: Explain) -> None:
    own = API.replace("name: api}\nspec", "name: web}\nspec").replace("app: api", "app: web")
    lines = explained("--src=deploy/shop/web", "--dst=shop/db-0:5432", also=own).splitlines()
    assert "source       10.0.0.1 (pod shop/web)" in lines
    assert lines[-1] == "note         a pod with the labels of its template stands for deployment shop/web"


@pytest.mark.parametrize(
    ("kind", "version", "spec"),
    [
        *((kind, "apps/v1", '{"template": %s}') for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")),
        ("Job", "batch/v1", '{"template": %s}'),
        ("CronJob", "batch/v1", '{"jobTemplate": {"spec": {"template": %s}}}'),
        ("ReplicationController", "v1", '{"template": %s}'),
    ],
)
def test_every_kind_with_a_template_may_be_asked_about(explained: Explain, kind: str, version: str, spec: str) -> None:
    template = '{"metadata": {"labels": {"app": "api"}}, "spec": {"containers": []}}'
    item = {"metadata": {"namespace": "shop", "name": "x"}, "spec": json.loads(spec % template)}
    for body in (
        {"apiVersion": version, "kind": kind, **item},
        {"apiVersion": version, "kind": f"{kind}List", "items": [item]},
        {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": version, "kind": kind, **item}]},
    ):
        explained(f"--src={kind}/shop/x", "--dst=shop/db-0:5432", "--expect=allow", also=json.dumps(body))


def test_a_workload_in_the_network_of_its_nodes_is_refused(explained: Explain) -> None:
    host = API.replace("spec: {containers", "spec: {hostNetwork: true, containers")
    message = "--src: deployment shop/api uses the network of its nodes (hostNetwork), so no policy selects it"
    assert message in explained("--src=deploy/shop/api", "--dst=shop/web:80", code=ExitCode.FAILED, also=host)


def test_a_pod_in_a_namespace_with_the_name_of_a_kind_can_be_asked_about(explained: Explain) -> None:
    pod = (
        """{apiVersion: v1, kind: Pod, metadata: {namespace: svc, name: db}, spec: {containers: []}, status: {podIP: 10.9.9.9}}"""
    )
    assert "destination  10.9.9.9 (pod svc/db)" in explained("--src=shop/web", "--dst=svc/db:80", also=pod)
    assert "destination  10.0.0.1 (pod shop/web)" in explained("--src=pod/shop/web", "--dst=po/shop/web:80")


DUAL = """
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: dual, labels: {app: dual}}, spec: {containers: []}, status: {phase: Running,
  podIPs: [{ip: 10.0.0.8}, {ip: "fd00::8"}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: dual}, spec: {ports: [{port: 80}], selector: {app: dual}, %s}}
"""


@pytest.mark.parametrize(
    ("spec", "destination", "found"),
    [
        ("", "svc/shop/dual", ["10.0.0.8"]),
        ("ipFamilies: [IPv4, IPv6]", "svc/shop/dual", ["10.0.0.8", "fd00::8"]),
        ("ipFamilies: [IPv6]", "svc/shop/dual", ["fd00::8"]),
        ('clusterIPs: ["fd00:1::1", 10.96.0.9]', "svc/shop/dual", ["10.0.0.8", "fd00::8"]),
        ('clusterIPs: ["fd00:1::1", 10.96.0.9]', "10.96.0.9:80", ["10.0.0.8"]),
        ('clusterIPs: ["fd00:1::1", 10.96.0.9]', "[fd00:1::1]:80", ["fd00::8"]),
    ],
)
def test_a_service_has_endpoints_of_its_families(explained: Explain, spec: str, destination: str, found: list[str]) -> None:
    document = json.loads(explained("--src=shop/dual", f"--dst={destination}", "-o=json", also=DUAL % spec))
    assert [answer["destination"]["address"] for answer in document["answers"]] == found
