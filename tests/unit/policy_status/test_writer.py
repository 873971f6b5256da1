"""Writers against the test API server: one writes, the next takes over, and failures are survived."""

import asyncio
import contextlib
import logging
import sys

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from prometheus_client import CollectorRegistry

from netpolq.model import Rejection
from netpolq.policy_status import lease, writer
from netpolq.policy_status.plan import MAX_WRITES
from netpolq.policy_status.timing import Timing
from netpolq.policy_status.writer import PolicyStatus
from netpolq.sources.kubernetes.connection import Connection
from tests.support.apiserver import ApiServer
from tests.support.apiserver.resources import Body
from tests.support.apiserver.writes import Refusal
from tests.support.policy_reports import Reports, path_of
from tests.support.policy_status_process import TIMING

LEASE = f"{lease.collection('kube-system')}/{lease.NAME}"
CLOSED = Rejection(
    origin="", field="spec.egress[0].to[0].domainNames", message="unknown peer", consequence="spec.egress[0] denies everything"
)
UNREADABLE = Rejection(origin="", field="spec.subject", message="is required", consequence="the policy denies nothing")


@dataclass
class Agent:
    """A running writer."""

    writer: PolicyStatus
    registry: CollectorRegistry
    task: asyncio.Task[None]

    def count(self, result: str) -> float:
        return self.registry.get_sample_value("netpolq_policy_status_writes_total", {"result": result}) or 0.0

    async def stop(self) -> None:
        """Shut it down, as the supervisor does."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@dataclass
class Cluster:
    """The server, what its source reports, and the agents."""

    server: ApiServer
    reports: Reports
    kubeconfig: Path
    agents: list[Agent]

    def start(self, name: str = "node", timing: Timing = TIMING) -> Agent:
        registry, connection = CollectorRegistry(), Connection(str(self.kubeconfig))
        writer = PolicyStatus(self.reports, connection, registry, hostname=name, namespace="kube-system", timing=timing)
        self.agents.append(Agent(writer, registry, asyncio.create_task(writer.run())))
        return self.agents[-1]

    @property
    def holder(self) -> str:
        found = self.server.writes.leases.get(LEASE)
        return "" if found is None else str(cast("Body", found["spec"])["holderIdentity"])

    def accepted(self, name: str) -> Body:
        """The condition of a policy; empty if it has none."""
        return self.server.writes.conditions(path_of(name)).get("Accepted", {})

    def put(self, name: str, generation: int = 1, conditions: list[Body] | None = None) -> None:
        self.server.writes.put_policy(path_of(name), generation=generation, conditions=conditions)

    async def until(self, condition: Callable[[], object]) -> None:
        await self.server.until(lambda: bool(condition()))

    def written_by(self, agent: Agent) -> bool:
        return self.holder == agent.writer.identity


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with ApiServer() as server:
        made = Cluster(server, Reports(server.writes), server.kubeconfig(tmp_path / "kubeconfig"), [])
        yield made
        for agent in made.agents:
            await agent.stop()


async def test_a_policy_gets_its_condition_and_others_stay(cluster: Cluster) -> None:
    foreign = {"type": "Ready", "status": "True", "reason": "Other", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    cluster.put("good", generation=4, conditions=[foreign])
    cluster.start()
    await cluster.until(lambda: cluster.accepted("good"))
    found = cluster.accepted("good")
    assert (found["status"], found["reason"], found["observedGeneration"]) == ("True", "Accepted", 4)
    assert cluster.server.writes.conditions(path_of("good"))["Ready"] == foreign
    (patch,) = cluster.server.writes.patches
    assert patch.manager == "netpolq-policy-status"


async def test_policies_that_are_not_in_force_as_written_say_so(cluster: Cluster) -> None:
    cluster.reports.rejections = {"closed": CLOSED, "unreadable": UNREADABLE}
    for name in cluster.reports.rejections:
        cluster.put(name)
    cluster.start()
    await cluster.until(lambda: all(cluster.accepted(name) for name in cluster.reports.rejections))
    assert {name: cluster.accepted(name)["message"] for name in cluster.reports.rejections} == {
        "closed": "spec.egress[0].to[0].domainNames: unknown peer (spec.egress[0] denies everything)",
        "unreadable": "spec.subject: is required (the policy denies nothing)",
    }
    assert {cluster.accepted(name)["status"] for name in cluster.reports.rejections} == {"False"}


async def test_the_transition_time_changes_with_the_status_only(cluster: Cluster) -> None:
    long_ago = "2020-01-01T00:00:00Z"
    before = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "m", "lastTransitionTime": long_ago}
    cluster.put("p", generation=2, conditions=[{**before, "observedGeneration": 1}])
    cluster.start()
    await cluster.until(lambda: cluster.accepted("p")["observedGeneration"] == 2)
    assert cluster.accepted("p")["lastTransitionTime"] == long_ago
    cluster.reports.rejections = {"p": CLOSED}
    await cluster.until(lambda: cluster.accepted("p")["status"] == "False")
    assert cluster.accepted("p")["lastTransitionTime"] != long_ago


async def test_nothing_is_requested_of_policies_while_nothing_changes(cluster: Cluster) -> None:
    """The renewals of the Lease are the events that show that the writer goes on."""
    cluster.put("p")
    agent = cluster.start()
    await cluster.until(lambda: cluster.accepted("p"))
    before = len(cluster.server.requests)
    await cluster.until(lambda: len(cluster.server.requests) > before + 5)
    assert {request.path for request in cluster.server.requests[before:]} == {LEASE}
    assert agent.count("written") == 1


async def test_a_leader_that_finds_all_conditions_in_place_writes_none(cluster: Cluster) -> None:
    cluster.put("p")
    first = cluster.start()
    await cluster.until(lambda: cluster.accepted("p"))
    await first.stop()
    second = cluster.start()
    await cluster.until(lambda: cluster.written_by(second))
    before = len(cluster.server.requests)
    await cluster.until(lambda: len(cluster.server.requests) > before + 3)
    assert second.count("written") == 0


@pytest.mark.parametrize("agents", [2, 3])
async def test_exactly_one_of_several_agents_writes(cluster: Cluster, agents: int) -> None:
    started = [cluster.start(f"node-{number}") for number in range(agents)]
    for number in range(20):
        cluster.put(f"p{number}")
    await cluster.until(lambda: sum(agent.count("written") for agent in started) == 20)
    assert sorted(agent.count("written") for agent in started) == [0] * (agents - 1) + [20]
    (leader,) = [agent for agent in started if agent.count("written")]
    assert cluster.written_by(leader)


async def test_the_next_agent_takes_over_at_once_after_a_release(cluster: Cluster) -> None:
    """With a Lease that would outlast the test, if it were not released."""
    timing = replace(TIMING, lease_s=3000.0)
    first = cluster.start(timing=timing)
    await cluster.until(lambda: cluster.written_by(first))
    second = cluster.start(timing=timing)
    cluster.put("p")
    await cluster.until(lambda: first.count("written"))
    await first.stop()
    await cluster.until(lambda: cluster.written_by(second))
    cluster.put("q")
    await cluster.until(lambda: second.count("written"))
    assert (first.count("written"), second.count("written")) == (1, 1)


async def test_the_next_agent_takes_over_from_one_that_was_killed(cluster: Cluster) -> None:
    cluster.put("p")
    argv = [sys.executable, "-m", "tests.support.policy_status_process", str(cluster.kubeconfig), "killed", "p"]
    process = await asyncio.create_subprocess_exec(*argv)
    try:
        await cluster.until(lambda: cluster.accepted("p"))
        assert cluster.holder.startswith("killed_")
        second = cluster.start()
        asked = len(cluster.server.asked())
        await cluster.until(lambda: len(cluster.server.asked()) > asked + 10)
        assert cluster.holder.startswith("killed_"), "while it lives, it keeps the Lease"
    finally:
        process.kill()
        await process.wait()
    cluster.put("q")
    await cluster.until(lambda: cluster.accepted("q"))
    assert cluster.written_by(second)


async def test_a_leader_without_the_server_stops_and_starts_again(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent = cluster.start()
    await cluster.until(lambda: cluster.written_by(agent))
    await cluster.server.refuse_connections()
    cluster.server.cut_connections()
    await cluster.until(lambda: "no longer writes" in caplog.text)
    cluster.put("p")
    await cluster.server.accept_connections()
    await cluster.until(lambda: cluster.accepted("p"))
    assert cluster.written_by(agent)


async def test_a_lease_that_another_client_changes_or_deletes_is_read_again(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    agent = cluster.start()
    await cluster.until(lambda: cluster.written_by(agent))
    cluster.server.writes.leases.pop(LEASE)
    await cluster.until(lambda: cluster.written_by(agent))
    found = cluster.server.writes.leases[LEASE]
    version = {**cast("Body", found["metadata"]), "resourceVersion": "changed"}
    cluster.server.writes.leases[LEASE] = {**found, "metadata": version}
    await cluster.until(lambda: cast("Body", cluster.server.writes.leases[LEASE]["metadata"])["resourceVersion"] != "changed")
    cluster.put("p")
    await cluster.until(lambda: cluster.accepted("p"))
    assert "no longer writes" not in caplog.text, "it reads the Lease at once, not when its term has ended"


async def test_a_leader_yields_to_another_holder(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent = cluster.start()
    await cluster.until(lambda: cluster.written_by(agent))
    found = cluster.server.writes.leases[LEASE]
    spec = {**cast("Body", found["spec"]), "holderIdentity": "other"}
    cluster.server.writes.leases[LEASE] = {"metadata": {**cast("Body", found["metadata"]), "resourceVersion": "x"}, "spec": spec}
    await cluster.until(lambda: "no longer writes" in caplog.text)


@pytest.mark.parametrize("code", [403, 404, 409, 422, 429, 500, 503])
async def test_refused_writes_are_repeated(cluster: Cluster, code: int) -> None:
    cluster.server.writes.refusals = [Refusal("PATCH", "/clusternetworkpolicies/", code)]
    cluster.put("p")
    agent = cluster.start()
    await cluster.until(lambda: agent.count("failed") >= 2)
    assert not agent.task.done()
    cluster.server.writes.refusals = []
    await cluster.until(lambda: cluster.accepted("p"))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("code", [403, 409, 500])
async def test_a_refused_lease_ends_no_agent(cluster: Cluster, method: str, code: int) -> None:
    cluster.server.writes.refusals = [Refusal(method, "/leases", code)]
    cluster.put("p")
    agent = cluster.start()
    refused = [request for request in cluster.server.requests if request.method == method]
    await cluster.until(lambda: len([found for found in cluster.server.requests if found.method == method]) > len(refused) + 2)
    assert not agent.task.done()
    cluster.server.writes.refusals = []
    await cluster.until(lambda: cluster.written_by(agent) and cluster.accepted("p"))


async def test_a_policy_that_is_gone_holds_up_no_other(cluster: Cluster) -> None:
    cluster.server.writes.refusals = [Refusal("PATCH", "/gone/", 404)]
    for name in ("gone", "p"):
        cluster.put(name)
    agent = cluster.start()
    await cluster.until(lambda: cluster.accepted("p"))
    await cluster.until(lambda: agent.count("failed") >= 2)


async def test_two_writers_that_fight_do_so_for_a_few_writes_only(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """The other writer puts its own condition back whenever it sees ours."""
    cluster.put("p")
    agent = cluster.start()

    def overwrite() -> bool:
        if cluster.accepted("p").get("reason") == "Accepted":
            cluster.put("p", conditions=[{**cluster.accepted("p"), "reason": "Mine"}])
        return "keeps overwriting" in caplog.text

    await cluster.until(overwrite)
    assert agent.count("written") == MAX_WRITES
    cluster.put("q")
    await cluster.until(lambda: agent.count("written") == MAX_WRITES + 1)
    assert cluster.accepted("q")
    assert cluster.accepted("p")["reason"] == "Mine"


async def test_many_changes_at_once_are_written_at_the_given_rate(cluster: Cluster) -> None:
    """Time is measured by the events of the same loop: between two writes there is at least the interval."""
    timing = replace(TIMING, write_interval_s=0.05)
    times: list[float] = []
    for number in range(10):
        cluster.put(f"p{number}")
    cluster.start(timing=timing)

    def note() -> bool:
        while len(times) < len(cluster.server.writes.patches):
            times.append(asyncio.get_running_loop().time())
        return len(times) == 10

    await cluster.until(note)
    assert times[-1] - times[0] >= 9 * 0.05 * 0.9


async def test_rotated_credentials_are_read_again(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("first")
    async with ApiServer(token="first") as server:
        config = server.kubeconfig(tmp_path / "kubeconfig", token_file=token_file)
        cluster = Cluster(server, Reports(server.writes), config, [])
        agent = cluster.start()
        await cluster.until(lambda: cluster.written_by(agent))
        server.rotate_token("second")
        cluster.put("p")
        await cluster.until(lambda: agent.count("failed"))
        token_file.write_text("second")
        await cluster.until(lambda: cluster.accepted("p"))
        await agent.stop()


@pytest.mark.parametrize(
    ("content", "namespace"),
    [(b"network\n", "network"), (b"", "kube-system"), (b"\xff", "kube-system"), (None, "kube-system")],
    ids=["a pod", "empty", "no text", "outside a pod"],
)
def test_the_lease_is_in_the_namespace_of_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, namespace: str
) -> None:
    file = tmp_path / "namespace"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(writer, "_NAMESPACE_FILE", file)
    assert writer.own_namespace() == namespace


async def test_an_unusable_kubeconfig_ends_no_agent(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    good = cluster.kubeconfig
    cluster.kubeconfig = good.with_name("other")
    agent = cluster.start()
    await cluster.until(lambda: "cannot be used" in caplog.text)
    assert not agent.task.done()
    cluster.kubeconfig.write_bytes(good.read_bytes())
    await cluster.until(lambda: cluster.written_by(agent))
