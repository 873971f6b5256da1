"""An agent that writes Events: a denied connection becomes one on the pod whose policy denied it."""

import socket

from collections.abc import Iterator
from contextlib import contextmanager

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe
from netpolq.supervisor.status_client import fetch
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER
from tests.support.apiserver import PODS, ApiServer, ThreadedApiServer
from tests.support.apiserver.events import EventRefusal
from tests.support.apiserver.resources import Body

TOKEN = "secret-of-the-test"  # noqa: S105
AUDIT = {"policy.netpolq.io/enforcement": "audit"}


@contextmanager
def running(box: Box, *flags: str, annotations: dict[str, str] | None = None) -> Iterator[tuple[ThreadedApiServer, Agent]]:
    """An agent in a cluster in which the server admits the friend alone. `annotations`: of its policy."""
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    with ThreadedApiServer(ApiServer(tls=True, token=TOKEN, listener=listener)) as api:
        api.put(manifests.namespace("app"))
        for host in (SERVER, FRIEND, STRANGER):
            api.put(manifests.pod(host, NODE, app=host.name.split("/")[1]))
        rule = {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}
        policy = dict(manifests.policy("app/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[rule]))
        policy["metadata"] = {"namespace": "app", "name": "server", "annotations": annotations or {}}
        api.put(policy)
        config = api.kubeconfig(box.directory / "kubeconfig", token=TOKEN)
        with Agent(box, None, "--kubeconfig", str(config), "--workers=1", "--fail-open=false", *flags) as agent:
            yield api, agent


def connect(box: Box) -> list[bool]:
    """Whether the friend and the stranger reach the server."""
    probes = [Probe(client.name, box.address(SERVER.name, 4), "TCP", 80) for client in (FRIEND, STRANGER)]
    return [result.reached for result in box.probe(probes)]


def events(server: ApiServer) -> list[Body]:
    return list(server.events.objects.values())


def problem(agent: Agent) -> str:
    """Why no Events are written; empty if they are."""
    found = fetch(agent.run_dir).events
    return "" if found is None or found.problem is None else found.problem


def test_a_denied_connection_becomes_an_event_of_the_pod_that_its_policy_protects(box: Box) -> None:
    with running(box, "--events") as (api, agent):
        assert connect(box) == [True, False]
        api.until(lambda server: bool(events(server)))
        (event,) = api.do(events)
        pod = api.do(lambda server: server.objects(PODS)[SERVER.name]["metadata"])
        assert isinstance(pod, dict)
        involved = {"apiVersion": "v1", "kind": "Pod", "namespace": "app", "name": "server", "uid": pod["uid"]}
        assert (event["involvedObject"], event["type"], event["reason"]) == (involved, "Warning", "NetworkPolicyDenied")
        address = box.address(STRANGER.name, 4)
        assert str(event["message"]).startswith(
            f"ingress from app/stranger ({address}) to TCP 80 denied: isolated by app/server ("
        )
        agent.wait_until("it is counted", lambda: 'netpolq_events_total{outcome="written"} 1.0' in agent.metrics())
        found = fetch(agent.run_dir).events
        assert found is not None
        assert (found.events["suppressed"], found.events["failed"], found.problem) == (0, 0, None)


def test_what_a_policy_in_audit_would_deny_is_an_event_of_its_own_kind(box: Box) -> None:
    with running(box, "--events", annotations=AUDIT) as (api, _agent):
        assert connect(box) == [True, True]
        api.until(lambda server: bool(events(server)))
        (event,) = api.do(events)
        assert (event["type"], event["reason"]) == ("Normal", "NetworkPolicyWouldDeny")
        assert "would be denied: isolated by app/server" in str(event["message"])


def test_an_agent_that_may_write_no_events_enforces_and_names_the_permission(box: Box) -> None:
    with running(box, "--events") as (api, agent):
        refusal = EventRefusal(method="POST", code=403)
        api.do(lambda server: server.events.refusals.append(refusal))
        assert connect(box) == [True, False]
        agent.wait_until("the problem is in the status", lambda: problem(agent) != "")
        assert problem(agent).startswith('403: the ClusterRole of the agent does not permit to create events (API group "")')
        assert agent.is_ready()
        assert connect(box) == [True, False]
        assert TOKEN not in agent.log.read_text()


def test_without_the_option_an_agent_asks_for_nothing_of_events(box: Box) -> None:
    with running(box) as (api, agent):
        assert connect(box) == [True, False]
        agent.wait_until("the flow is recorded", lambda: "netpolq_policy_connections_total{" in agent.metrics())
        assert fetch(agent.run_dir).events is None
        assert "netpolq_events_total" not in agent.metrics()
        assert {request.method for request in api.do(lambda server: server.requests)} == {"GET"}
