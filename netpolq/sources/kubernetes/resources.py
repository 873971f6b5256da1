"""Resources that the agent reads from the API server, and the decoding of one object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from netpolq.model import ClusterPolicyKind, Kind, Object, ObjectKey, Rejection
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode
from netpolq.sources.decode.kinds import CLUSTER_GROUP, CLUSTER_POLICIES, VERSIONS
from netpolq.sources.kubernetes.policy_report import PolicyReport, report_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind with the path under which it is listed and watched cluster-wide."""

    kind: Kind
    api_version: str
    path: str

    @property
    def permission(self) -> str:
        """What a role must permit, in words."""
        group, _, _version = self.api_version.rpartition("/")
        return f'list and watch of {self.path.rpartition("/")[2]} in API group "{group}"'


RESOURCES = (
    Resource(kind="Namespace", api_version="v1", path="/api/v1/namespaces"),
    Resource(kind="Pod", api_version="v1", path="/api/v1/pods"),
    Resource(kind="NetworkPolicy", api_version="networking.k8s.io/v1", path="/apis/networking.k8s.io/v1/networkpolicies"),
)
"""The kinds that every cluster has."""

NODES = Resource(kind="Node", api_version="v1", path="/api/v1/nodes")

PLURALS: Final[Mapping[ClusterPolicyKind, str]] = {
    "ClusterNetworkPolicy": "clusternetworkpolicies",
    "AdminNetworkPolicy": "adminnetworkpolicies",
    "BaselineAdminNetworkPolicy": "baselineadminnetworkpolicies",
}

OPTIONAL: Final[tuple[Resource, ...]] = tuple(
    Resource(kind=kind, api_version=version, path=f"/apis/{version}/{plural}")
    for kind, plural in PLURALS.items()
    for version in VERSIONS[kind]
)
"""The kinds of `CLUSTER_GROUP`, which exist only with their CRDs, in each known version, the newest of a kind first."""

GROUP_PATH = f"/apis/{CLUSTER_GROUP}"


class Item(NamedTuple):
    """An object as received. `version`: its resourceVersion as a number, or 0. `content`: None if nothing of it is usable.

    `report`: of a cluster-wide policy.
    """

    key: ObjectKey
    version: int
    content: Object | None
    rejection: Rejection | None
    report: PolicyReport | None = None

    @property
    def is_retained(self) -> bool:
        """Whether the last readable version stays in force: what a cluster-wide policy denied must not become allowed."""
        return self.content is None and self.key.kind in CLUSTER_POLICIES


def read_item(resource: Resource, body: object) -> Item | None:
    """Decode an API object. Returns None for a body without a valid name.

    The items of a list carry neither kind nor apiVersion, so both come from the resource and not from the body.
    """
    if not isinstance(body, dict):
        return None
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return None
    namespace, name = metadata.get("namespace", ""), metadata.get("name")
    if not (isinstance(name, str) and name and isinstance(namespace, str)):
        return None
    key = ObjectKey(resource.kind, namespace, name)
    content: Object | Ignored | None
    rejection: Rejection | None = None
    try:
        content = decode({**body, "kind": resource.kind, "apiVersion": resource.api_version})
    except DecodeError as error:
        content = error.partial
        rejection = error.rejection(key=str(key))
    return Item(
        key=key,
        version=version_number(metadata.get("resourceVersion")),
        content=None if content is None or isinstance(content, Ignored) or content.key != key else content,
        rejection=rejection,
        report=report_of(resource.kind, name, resource.api_version, body, rejection)
        if resource.kind in CLUSTER_POLICIES
        else None,
    )


def version_number(text: object) -> int:
    """A resourceVersion as a number, by which objects of one kind are ordered; 0 for anything else.

    Source: the API concepts page on resource versions: a decimal number since 1.35, and in practice in every earlier version.
    """
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20 else 0
