"""Requests about Events, and answers of the API. Source: v1 Event and ObjectReference of the API reference.

Events are those of the core group, because the group events.k8s.io lets no client change the message of an Event (`ValidateEventUpdate` of
k8s.io/kubernetes/pkg/apis/core/validation/events.go), and `kubectl` shows both groups as the same objects.
"""

from datetime import UTC, datetime
from urllib.parse import quote

import orjson

from netpolq.events.series import PodIdentity, Reason
from netpolq.events.table import Write
from netpolq.sources.kubernetes.json_fields import mapping, text

COMPONENT = "netpolq"
PATCH_TYPE = "application/merge-patch+json"

_MIRROR = "kubernetes.io/config.mirror"
"""The annotation of a pod that stands for a static one. The kubelet's and kubectl's Events of such a pod have its value as the uid."""

_MAX_POD_NAME = 230
"""Characters of a pod's name in the name of an Event, which has at most 253, a dot and the token included."""

_MAX_COUNT = 2**31 - 1
"""Source: `count` is an int32."""


def collection(namespace: str) -> str:
    """The path of the Events of a namespace."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/events"


def path(write: Write) -> str:
    """The path of the Event of a series."""
    return f"{collection(write.key.pod.namespace)}/{quote(_name(write), safe='')}"


def pod_query(pod: PodIdentity) -> tuple[str, dict[str, str]]:
    """The path and the query of a list that has this pod alone. Version 0: the server answers from its cache."""
    query = {"fieldSelector": f"metadata.name={pod.name}", "resourceVersion": "0"}
    return f"/api/v1/namespaces/{quote(pod.namespace, safe='')}/pods", query


def uid_in(content: bytes, pod: PodIdentity) -> str:
    """The uid for Events of a pod, from the answer to `pod_query`; empty if this pod is not there. Raises `ValueError`."""
    items = mapping(orjson.loads(content)).get("items")
    for item in items if isinstance(items, list) else []:
        metadata = mapping(mapping(item).get("metadata"))
        if text(metadata, "name") == pod.name and text(metadata, "creationTimestamp") == pod.created:
            return text(mapping(metadata.get("annotations")), _MIRROR) or text(metadata, "uid")
    return ""


def new_event(write: Write, uid: str, node: str) -> dict[str, object]:
    """The Event of a series, about its pod. kubectl finds it by the pod's uid."""
    pod = write.key.pod
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": pod.namespace, "name": _name(write)},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": uid},
        "type": "Warning" if write.key.reason is Reason.DENIED else "Normal",
        "reason": write.key.reason.value,
        "firstTimestamp": _time(write.first_s),
        **change(write),
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }


def change(write: Write) -> dict[str, object]:
    """What a write changes in the Event of a series."""
    return {"message": write.message, "count": min(write.connections, _MAX_COUNT), "lastTimestamp": _time(write.last_s)}


def _name(write: Write) -> str:
    return f"{write.key.pod.name[:_MAX_POD_NAME].rstrip('-.')}.{write.token:016x}"


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
