"""The kinds of the test API server, and their paths."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

Body = Mapping[str, object]


class Verb(StrEnum):
    """The operation of a request for a collection."""

    LIST = "list"
    WATCH = "watch"


class Resource(NamedTuple):
    """A kind of objects. `rest`: fields of its bookmarks beside the metadata, as Go encodes an empty object."""

    plural: str
    kind: str
    api_version: str
    namespaced: bool
    rest: bytes

    @property
    def path(self) -> str:
        """The path of the collection of the whole cluster."""
        root = "/apis" if "/" in self.api_version else "/api"
        return f"{root}/{self.api_version}/{self.plural}"

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def opening(self) -> bytes:
        """The beginning of an object in a watch, with its type. (Items of a list have no type.)"""
        return b'{"kind":"%s","apiVersion":"%s",' % (self.kind.encode(), self.api_version.encode())


NAMESPACES = Resource("namespaces", "Namespace", "v1", namespaced=False, rest=b',"spec":{},"status":{}')
PODS = Resource("pods", "Pod", "v1", namespaced=True, rest=b',"spec":{"containers":null},"status":{}')
NETWORK_POLICIES = Resource(
    "networkpolicies", "NetworkPolicy", "networking.k8s.io/v1", namespaced=True, rest=b',"spec":{"podSelector":{}}'
)
RESOURCES = (NAMESPACES, PODS, NETWORK_POLICIES)
"""What an agent always reads."""

NODES = Resource("nodes", "Node", "v1", namespaced=False, rest=b',"spec":{},"status":{}')

GROUP = "policy.networking.k8s.io"
CLUSTER_POLICIES = Resource("clusternetworkpolicies", "ClusterNetworkPolicy", f"{GROUP}/v1alpha2", namespaced=False, rest=b"")
ADMIN_POLICIES = Resource("adminnetworkpolicies", "AdminNetworkPolicy", f"{GROUP}/v1alpha1", namespaced=False, rest=b"")
BASELINE_POLICIES = Resource(
    "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", f"{GROUP}/v1alpha1", namespaced=False, rest=b""
)
CUSTOM = (CLUSTER_POLICIES, ADMIN_POLICIES, BASELINE_POLICIES)
"""Kinds with a CRD, each in its stored version."""

DISCOVERY = Resource("", "APIGroup", "v1", namespaced=False, rest=b"")
"""The discovery documents of `GROUP`, for faults. It is no collection."""

SERVICES = Resource("services", "Service", "v1", namespaced=True, rest=b',"spec":{},"status":{}')
ENDPOINT_SLICES = Resource("endpointslices", "EndpointSlice", "discovery.k8s.io/v1", namespaced=True, rest=b',"endpoints":null')
DEPLOYMENTS = Resource("deployments", "Deployment", "apps/v1", namespaced=True, rest=b',"spec":{},"status":{}')
OTHERS = (SERVICES, ENDPOINT_SLICES, DEPLOYMENTS)
"""What commands read, and no agent."""

BY_KIND = {resource.kind: resource for resource in (*RESOURCES, NODES, *CUSTOM, *OTHERS)}
BY_PATH = {resource.path: resource for resource in (*RESOURCES, NODES, *OTHERS)}


def key_of(resource: Resource, namespace: str, name: str) -> str:
    """The key of an object within its kind: `namespace/name`, or the name if the kind has no namespaces."""
    return f"{namespace}/{name}" if resource.namespaced else name
