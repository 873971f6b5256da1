"""Bodies of a large cluster: of any number, equal in every run, and as large as real ones.

Network policies need only a small part of a real pod, not managedFields, environments, resources, probes, conditions and container
statuses. A source that keeps these needs ten times the memory, which only bodies of this size show.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

Body = Mapping[str, object]

PODS_PER_NAMESPACE = 100
PODS_PER_NODE = 50
_APPS = ("web", "api", "worker", "cache", "db", "queue", "cron", "gateway")
_TIERS = ("frontend", "backend", "data")
_TEAMS = ("payments", "search", "catalogue", "identity", "logistics")
_IPV4 = int(IPv4Address("10.64.0.1"))
_IPV6 = int(IPv6Address("fd00:64::1"))
_STARTED = "2025-01-02T03:04:05Z"


def namespaces(pod_count: int) -> Iterator[Body]:
    """The namespaces of `pods(pod_count)`."""
    for index in range(-(-pod_count // PODS_PER_NAMESPACE)):
        labels = {"team": _TEAMS[index % len(_TEAMS)], "stage": "prod" if index % 4 else "test"}
        metadata = {
            "name": namespace_name(index),
            "labels": labels,
            "managedFields": [_managed("kubectl-create", _NAMESPACE_FIELDS)],
        }
        status = {"phase": "Active"}
        yield {
            "kind": "Namespace",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": {"finalizers": ["kubernetes"]},
            "status": status,
        }


def namespace_name(index: int) -> str:
    """The name of a namespace."""
    return f"team-{index:05}"


def pods(count: int) -> Iterator[Body]:
    """Running pods, dual-stack, a hundred to a namespace and fifty to a node. About 8 KB of JSON each."""
    for index in range(count):
        yield pod(index)


def pod(index: int, *, generation: int = 0) -> Body:
    """One of these pods. Generations of the same pod differ in an annotation and a restart count, which do not concern policies."""
    app, tier = _APPS[index % len(_APPS)], _TIERS[index // len(_APPS) % len(_TIERS)]
    replica_set = f"{app}-{index // len(_APPS) % 97:02}7c9d8b6f5"
    name = f"{replica_set}-{index:06x}"
    addresses = [str(IPv4Address(_IPV4 + index)), str(IPv6Address(_IPV6 + index))]
    node = f"node-{index // PODS_PER_NODE:05}"
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "generateName": f"{replica_set}-",
            "namespace": namespace_name(index // PODS_PER_NAMESPACE),
            "labels": {
                "app.kubernetes.io/name": app,
                "app.kubernetes.io/instance": f"{app}-{index // PODS_PER_NAMESPACE % 7}",
                "app.kubernetes.io/managed-by": "Helm",
                "tier": tier,
                "pod-template-hash": "7c9d8b6f5",
            },
            "annotations": {
                "checksum/config": f"{index:064x}",
                "prometheus.io/port": "9090",
                "prometheus.io/scrape": "true",
                "example.com/restarted-at": f"generation {generation}",
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": replica_set,
                    "uid": f"00000000-0000-4000-8000-{index // len(_APPS):012x}",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": _POD_MANAGED_FIELDS,
        },
        "spec": {
            "volumes": _VOLUMES,
            "containers": [_container(app, f"registry.example.com/shop/{app}:1.{generation}"), _SIDECAR],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": app,
            "serviceAccount": app,
            "nodeName": node,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001},
            "schedulerName": "default-scheduler",
            "tolerations": _TOLERATIONS,
            "priority": 0,
            "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {
            "phase": "Running",
            "conditions": _CONDITIONS,
            "hostIP": f"192.0.2.{index // PODS_PER_NODE % 250 + 1}",
            "hostIPs": [{"ip": f"192.0.2.{index // PODS_PER_NODE % 250 + 1}"}],
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "startTime": _STARTED,
            "containerStatuses": [_container_status(app, index, generation), _container_status("metrics", index, 0)],
            "qosClass": "Burstable",
        },
    }


def policies(count: int, pod_count: int) -> Iterator[Body]:
    """Policies in the namespaces of `pods(pod_count)`, of the most common forms."""
    namespace_count = max(1, -(-pod_count // PODS_PER_NAMESPACE))
    for index in range(count):
        app = _APPS[index // namespace_count % len(_APPS)]
        metadata = {
            "name": f"{app}-{index:06}",
            "namespace": namespace_name(index % namespace_count),
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "managedFields": [_managed("helm", _POLICY_FIELDS)],
        }
        spec = _policy_spec(index, {"matchLabels": {"app.kubernetes.io/name": app}})
        yield {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": metadata, "spec": spec}


def _policy_spec(index: int, pod_selector: Body) -> Body:
    peer = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": _APPS[index % len(_APPS)]}}}
    team = {"namespaceSelector": {"matchLabels": {"team": _TEAMS[index % len(_TEAMS)]}}}
    match index % 5:
        case 0:  # no ingress at all
            return {"podSelector": pod_selector, "policyTypes": ["Ingress"]}
        case 1:  # one application of the same namespace, by the name of a port
            rule = {"from": [peer], "ports": [{"protocol": "TCP", "port": "http"}]}
            return {"podSelector": pod_selector, "policyTypes": ["Ingress"], "ingress": [rule]}
        case 2:  # a tier of another team's namespaces
            tiers = {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["frontend", "backend"]}]}
            rule = {"from": [{**team, "podSelector": tiers}], "ports": [{"protocol": "TCP", "port": 8080}]}
            return {"podSelector": pod_selector, "policyTypes": ["Ingress"], "ingress": [rule]}
        case 3:  # out to the name service and to a block with exceptions
            dns = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
            block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", f"172.16.{index % 256}.0/24"]}
            egress = [dns, {"to": [{"ipBlock": block}], "ports": [{"protocol": "TCP", "port": 443}]}]
            return {"podSelector": pod_selector, "policyTypes": ["Egress"], "egress": egress}
        case _:  # both directions, a range of ports
            ports = [{"protocol": "TCP", "port": 8000, "endPort": 8100}]
            rules = {"ingress": [{"from": [team, peer], "ports": ports}], "egress": [{"to": [peer], "ports": ports}]}
            return {"podSelector": pod_selector, "policyTypes": ["Ingress", "Egress"], **rules}


def _container(name: str, image: str) -> Body:
    return {
        "name": name,
        "image": image,
        "ports": [
            {"name": "http", "containerPort": 8080, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
        ],
        "env": _ENVIRONMENT,
        "resources": {"limits": {"cpu": "2", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": _MOUNTS,
        "livenessProbe": _probe("/livez"),
        "readinessProbe": _probe("/readyz"),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
    }


def _probe(path: str) -> Body:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


def _container_status(name: str, index: int, restarts: int) -> Body:
    return {
        "name": name,
        "state": {"running": {"startedAt": _STARTED}},
        "lastState": {},
        "ready": True,
        "restartCount": restarts,
        "image": f"registry.example.com/shop/{name}:1.0",
        "imageID": f"registry.example.com/shop/{name}@sha256:{index % 31:064x}",
        "containerID": f"containerd://{index:064x}",
        "started": True,
    }


def _managed(manager: str, fields: Body, subresource: str | None = None) -> Body:
    entry = {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": _STARTED, "fieldsType": "FieldsV1"}
    return {**entry, "fieldsV1": fields, **({"subresource": subresource} if subresource else {})}


def _fields(names: Sequence[str], inner: Body) -> Body:
    return {f"f:{name}": inner for name in names}


_NAMESPACE_FIELDS: Body = {"f:metadata": {"f:labels": _fields(("team", "stage"), {})}}
_POLICY_FIELDS: Body = {"f:spec": _fields(("podSelector", "policyTypes", "ingress", "egress"), {})}
_PROBE_FIELDS = _fields(("failureThreshold", "httpGet", "periodSeconds", "successThreshold", "timeoutSeconds"), {})
_ENVIRONMENT: list[Body] = [
    {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "database", "key": "password"}}},
    *({"name": f"SETTING_{number}", "value": f"value of setting {number}"} for number in range(4)),
]
_CONTAINER_FIELDS = {
    ".": {},
    "f:env": {f'k:{{"name":"{entry["name"]}"}}': {".": {}, "f:name": {}, "f:value": {}} for entry in _ENVIRONMENT},
    "f:livenessProbe": _PROBE_FIELDS,
    "f:readinessProbe": _PROBE_FIELDS,
    **_fields(("image", "imagePullPolicy", "name", "ports", "resources", "securityContext", "volumeMounts"), {}),
}
_CONDITION_NAMES = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
_CONDITION_FIELDS = {
    f'k:{{"type":"{name}"}}': _fields(("lastProbeTime", "lastTransitionTime", "status", "type"), {}) for name in _CONDITION_NAMES
}
_POD_MANAGED_FIELDS = [
    _managed(
        "kube-controller-manager",
        {
            "f:metadata": {"f:annotations": {}, "f:generateName": {}, "f:labels": {}, "f:ownerReferences": {}},
            "f:spec": {
                "f:containers": {
                    'k:{"name":"main"}': _CONTAINER_FIELDS,
                    'k:{"name":"metrics"}': {**_CONTAINER_FIELDS, "f:env": {}},
                },
                **_fields(("dnsPolicy", "restartPolicy", "schedulerName", "securityContext", "serviceAccount", "volumes"), {}),
            },
        },
    ),
    _managed(
        "kubelet",
        {
            "f:status": {
                "f:conditions": _CONDITION_FIELDS,
                **_fields(("containerStatuses", "hostIP", "phase", "podIP", "podIPs"), {}),
            }
        },
        "status",
    ),
]
_CONDITIONS = [
    {"type": name, "status": "True", "lastProbeTime": None, "lastTransitionTime": _STARTED, "observedGeneration": 1}
    for name in _CONDITION_NAMES
]
_MOUNTS = [
    {"name": "config", "mountPath": "/etc/app", "readOnly": True},
    {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True},
]
_VOLUMES = [
    {"name": "config", "configMap": {"name": "config", "defaultMode": 420}},
    {
        "name": "kube-api-access",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ],
            "defaultMode": 420,
        },
    },
]
_SIDECAR = {**_container("metrics", "registry.example.com/shop/metrics:1.0"), "env": _ENVIRONMENT[:1]}
_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for taint in ("not-ready", "unreachable")
]
