"""Reports of the cluster-wide policies of the test API server, as the cluster source makes them of what it watches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from netpolq.model import ObjectKey, Rejection
from netpolq.sources.kubernetes.policy_report import PolicyCondition, PolicyReport
from tests.support.apiserver.resources import Body
from tests.support.apiserver.writes import Writes

API_VERSION = "policy.networking.k8s.io/v1alpha2"
POLICIES = f"/apis/{API_VERSION}/clusternetworkpolicies"


def path_of(name: str) -> str:
    return f"{POLICIES}/{name}"


def key_of(name: str) -> ObjectKey:
    return ObjectKey("ClusterNetworkPolicy", "", name)


@dataclass
class Reports:
    """A report for each policy of the server; the same object until the policy changes. `rejections`: by name of the policy."""

    writes: Writes
    rejections: dict[str, Rejection] = field(default_factory=dict)
    _known: dict[str, tuple[Body, Rejection | None, PolicyReport]] = field(default_factory=dict)

    @property
    def policy_reports(self) -> Mapping[ObjectKey, PolicyReport]:
        found = {}
        for path, body in self.writes.policies.items():
            name = path.rpartition("/")[2]
            rejection, known = self.rejections.get(name), self._known.get(name)
            if known is None or known[0] is not body or known[1] != rejection:
                known = self._known[name] = body, rejection, report(name, body, rejection)
            found[key_of(name)] = known[2]
        return found


def report(name: str, body: Body, rejection: Rejection | None) -> PolicyReport:
    metadata = cast("Body", body["metadata"])
    conditions = cast("dict[str, list[dict[str, str]]]", body["status"])["conditions"]
    return PolicyReport(
        kind="ClusterNetworkPolicy",
        name=name,
        api_version=API_VERSION,
        generation=int(str(metadata["generation"])),
        uid=str(metadata["uid"]),
        conditions=tuple(
            PolicyCondition(
                found["type"],
                found["status"],
                found["reason"],
                found["message"],
                int(found["observedGeneration"]),
                found["lastTransitionTime"],
            )
            for found in conditions
            if found["type"] == "Accepted"
        ),
        rejection=rejection,
    )
