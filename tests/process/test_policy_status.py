"""An agent that writes conditions takes part in the election over its own connection, and leaves it when it ends."""

import socket

from typing import cast

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.policy_status import lease
from tests.process.conftest import NODE
from tests.support.apiserver import ApiServer, ThreadedApiServer
from tests.support.apiserver.resources import Body

TOKEN = "secret-of-the-test"  # noqa: S105
LEASE = f"{lease.collection('kube-system')}/{lease.NAME}"


def holder(server: ApiServer) -> str:
    found = server.writes.leases.get(LEASE)
    return "" if found is None else str(cast("Body", found["spec"])["holderIdentity"])


def test_an_agent_holds_the_lease_while_it_runs_and_releases_it_when_it_is_stopped(box: Box) -> None:
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    with ThreadedApiServer(ApiServer(tls=True, token=TOKEN, listener=listener)) as api:
        config = api.kubeconfig(box.directory / "kubeconfig", token=TOKEN)
        with Agent(box, None, "--kubeconfig", str(config), "--workers=1", "--policy-status") as agent:
            api.until(lambda server: holder(server) != "")
            assert 'netpolq_policy_status_writes_total{result="written"} 0.0' in agent.metrics()
            assert agent.is_ready()
        assert api.do(holder) == ""
        assert LEASE in api.do(lambda server: server.writes.leases)


def test_without_the_option_an_agent_asks_for_no_lease(box: Box) -> None:
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    with ThreadedApiServer(ApiServer(tls=True, token=TOKEN, listener=listener)) as api:
        config = api.kubeconfig(box.directory / "kubeconfig", token=TOKEN)
        with Agent(box, None, "--kubeconfig", str(config), "--workers=1") as agent:
            agent.wait_until("the agent is ready", agent.is_ready)
            assert "netpolq_policy_status" not in agent.metrics()
        assert {request.method for request in api.do(lambda server: server.requests)} == {"GET"}
        assert not [request for request in api.do(lambda server: server.requests) if "leases" in request.path]
