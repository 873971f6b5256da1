"""For tests/unit/policy_status/test_with_source.py after the merge of "kube", "dec" and "stat". It passed on a merged copy at 23:31.

Hook in tests/support/apiserver/server.py (the one conflict): after `raise status.unauthorized()`, before nodes and discovery:
    if (written := await self.writes.answer(request)) is not None: return written
"""

import asyncio
import contextlib

from pathlib import Path

from prometheus_client import CollectorRegistry

from netpolq.policy_status.writer import PolicyStatus
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.source import ClusterSource
from tests.support.apiserver import ApiServer
from tests.support.apiserver.resources import CUSTOM
from tests.support.policy_reports import path_of
from tests.support.policy_status_process import TIMING

CLUSTER = next(resource for resource in CUSTOM if resource.kind == "ClusterNetworkPolicy")


async def test_a_part_that_fails_closed_is_written_once(tmp_path: Path) -> None:
    rule = {"action": "Deny", "to": [{"domainNames": ["x.y"]}]}
    policy = {
        "kind": "ClusterNetworkPolicy",
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "metadata": {"name": "p", "generation": 3},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]},
    }
    async with ApiServer() as server:
        server._custom.serve(CLUSTER, "v1alpha2")
        config = str(server.kubeconfig(tmp_path / "kubeconfig"))
        server.put(policy)
        server.writes.put_policy(path_of("p"))
        source = ClusterSource(config)
        writer = PolicyStatus(
            source, Connection(config), CollectorRegistry(), hostname="n", namespace="kube-system", timing=TIMING
        )
        tasks = [asyncio.create_task(source.run(lambda _update: None)), asyncio.create_task(writer.run())]
        await server.until(lambda: bool(server.writes.patches))
        (condition,) = server.writes.conditions(path_of("p")).values()
        assert (condition["status"], condition["observedGeneration"]) == ("False", 3)
        assert (
            condition["message"]
            == "spec.egress[0].to[0].domainNames: is allowed only in rules that accept (spec.egress[0] denies everything)"
        )
        server.put({**policy, "status": {"conditions": [condition]}})
        before = len(server.requests)
        await server.until(lambda: len([found for found in server.requests[before:] if "leases" in found.path]) > 5)
        assert len(server.writes.patches) == 1
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
