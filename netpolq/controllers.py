"""The name of the controller of a pod, as far as labels that controllers add to pods tell it: the model of a pod has no owner."""

import re

from collections.abc import Mapping

TEMPLATE_HASH = "pod-template-hash"
REVISION_HASH = "controller-revision-hash"
ORDINAL_NAME = "statefulset.kubernetes.io/pod-name"
JOB_NAMES = ("batch.kubernetes.io/job-name", "job-name")
_CONTROLLER_LABELS = frozenset(
    {
        *(TEMPLATE_HASH, REVISION_HASH, ORDINAL_NAME, "apps.kubernetes.io/pod-index"),
        *("controller-uid", "job-name", "pod-template-generation"),
    }
)
_CONTROLLER_PREFIX = "batch.kubernetes.io/"
"""Labels that controllers add to pods. Source: well-known labels of Kubernetes, and the DaemonSet and Job controllers."""

_RANDOM_END = re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{5}$")
"""The end of a name that is made from `generateName`. Source: `rand.String` of k8s.io/apimachinery."""


def stable_labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the labels of a pod without those that controllers add, sorted."""
    return tuple(
        (name, text)
        for name, text in sorted(labels.items())
        if name not in _CONTROLLER_LABELS and not name.startswith(_CONTROLLER_PREFIX)
    )


def job_name(labels: Mapping[str, str]) -> str:
    """Return the name of the Job of a pod, or nothing."""
    return next(filter(None, map(labels.get, JOB_NAMES)), "")


def controller_name(pod_name: str, labels: Mapping[str, str]) -> str:
    """Return the name of the controller (of a ReplicaSet: of its Deployment), or nothing if no label tells it."""
    if job := job_name(labels):
        return job
    if (template := labels.get(TEMPLATE_HASH)) and (end := pod_name.rfind(f"-{template}-")) > 0:
        return pod_name[:end]
    if labels.get(ORDINAL_NAME) == pod_name and "-" in pod_name:
        return pod_name.rpartition("-")[0]
    if REVISION_HASH in labels and (end_of_name := _RANDOM_END.search(pod_name)):
        return pod_name[: end_of_name.start()]
    return ""
