"""The Lease of the election as the API has it. Source: coordination.k8s.io/v1 LeaseSpec.

Its times are for readers of the Lease: the election does not compare them with a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from netpolq.sources.kubernetes.json_fields import mapping, text

NAME = "netpolq-policy-status"
_API_VERSION = "coordination.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A Lease as read. `version`: its resourceVersion. `duration_s`: 0 if there is none. `body`: the whole object."""

    holder: str
    renew_time: str
    duration_s: float
    version: str
    body: Mapping[str, object]


def collection(namespace: str) -> str:
    """The path of the Leases of a namespace."""
    return f"/apis/{_API_VERSION}/namespaces/{namespace}/leases"


def decode(content: bytes) -> Lease:
    """Return the Lease of an answer. Raises `ValueError`. Fields of a wrong type count as missing: a Lease with no holder is free."""
    body = orjson.loads(content)
    if not isinstance(body, dict):
        raise ValueError("the answer is not a Lease")
    metadata, spec = mapping(body.get("metadata")), mapping(body.get("spec"))
    duration = spec.get("leaseDurationSeconds")
    return Lease(
        holder=text(spec, "holderIdentity"),
        renew_time=text(spec, "renewTime"),
        duration_s=float(duration) if isinstance(duration, int) else 0.0,
        version=text(metadata, "resourceVersion"),
        body=body,
    )


def held(namespace: str, before: Lease | None, holder: str, duration_s: float, at: datetime) -> dict[str, object]:
    """The body of a Lease that this holder has. `before`: as read; None: it is created. `at`: the wall clock."""
    spec = dict(mapping(before.body.get("spec"))) if before is not None else {}
    if before is None or before.holder != holder:
        transitions = spec.get("leaseTransitions")
        spec["leaseTransitions"] = transitions + 1 if isinstance(transitions, int) else 0
        spec["acquireTime"] = _micro_time(at)
    spec |= {"holderIdentity": holder, "leaseDurationSeconds": max(1, round(duration_s)), "renewTime": _micro_time(at)}
    return _with_spec(namespace, before, spec)


def released(namespace: str, before: Lease, at: datetime) -> dict[str, object]:
    """The body of a Lease without a holder."""
    spec = {**mapping(before.body.get("spec")), "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time(at)}
    return _with_spec(namespace, before, spec)


def _with_spec(namespace: str, before: Lease | None, spec: Mapping[str, object]) -> dict[str, object]:
    """The object; its metadata, which operators may have added to, stay."""
    metadata = mapping(before.body.get("metadata")) if before is not None else {"name": NAME, "namespace": namespace}
    return {"apiVersion": _API_VERSION, "kind": "Lease", "metadata": metadata, "spec": spec}


def _micro_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
