"""Variants of the control plane without an agent: a large cluster, kinds of pods, and cluster-wide policies."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from loadtest import cluster_policies, controlplane, kinds
from loadtest.measure import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerVariant:
    """Store, compiler and snapshot in a separate process."""

    name: str
    pods: int
    policies: int
    events: int

    def open(self) -> AbstractContextManager["CompilerVariant"]:
        return nullcontext(self)

    def measure(self, round_number: int) -> Sample:
        """Measure one cluster from its first sync on."""
        del round_number
        cost = controlplane.measure(
            pods=self.pods, policies=self.policies, local_policies=min(100, self.policies), events=self.events
        )
        return Sample(
            values={
                "pod_event_ms": cost.pod_event.median_ms,
                "pod_event_p99_ms": cost.pod_event.p99_ms,
                "policy_event_ms": cost.policy_event.median_ms,
                "policy_event_p99_ms": cost.policy_event.p99_ms,
                "publish_ms": cost.publish.median_ms,
                "first_image_s": cost.first_image_s,
                "snapshot_bytes_per_pod": cost.snapshot_bytes_per_pod,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KindsVariant:
    """Policies that select all pods of some kinds, in this process."""

    name: str
    kinds: int
    changes: int

    def open(self) -> AbstractContextManager["KindsVariant"]:
        return nullcontext(self)

    def measure(self, round_number: int) -> Sample:
        """Changes of one policy after the other."""
        del round_number
        cost = kinds.measure(self.kinds, self.changes)
        return Sample(
            values={
                "change_ms": cost.change_ms,
                "first_ms": cost.first_ms,
                "snapshot_bytes": float(cost.snapshot_bytes),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPoliciesVariant:
    """Cluster-wide policies in a large cluster, in a separate process."""

    name: str
    pods: int
    changes: int

    def open(self) -> AbstractContextManager["ClusterPoliciesVariant"]:
        return nullcontext(self)

    def measure(self, round_number: int) -> Sample:
        """Measure one cluster from its first snapshot on."""
        del round_number
        return Sample(values=cluster_policies.measure(pods=self.pods, kinds=cluster_policies.KINDS, changes=self.changes))
