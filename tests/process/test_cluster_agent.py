"""An agent that watches an API server: policy changes apply to real packets, and server failures do not."""

import socket

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER
from tests.support.apiserver import (
    CLUSTER_POLICIES,
    NETWORK_POLICIES,
    ApiServer,
    GoSilent,
    ThreadedApiServer,
    write_service_account,
)

TOKEN = "secret-of-the-test"  # noqa: S105

_LIMIT_S = 90.0
"""The agent asks twice a minute for new kinds."""


class Watched(NamedTuple):
    box: Box
    api: ThreadedApiServer
    agent: Agent

    def reached(self) -> list[bool]:
        """Whether the friend and the stranger reach the server, over both families."""
        clients = [(client.name, family) for client in (FRIEND, STRANGER) for family in (4, 6)]
        probes = [Probe(name, self.box.address(SERVER.name, family), "TCP", 80) for name, family in clients]
        return [result.reached for result in self.box.probe(probes)]

    def admit(self, app: str) -> None:
        """Let the server's policy admit one client, and wait until that is in force."""
        before = self.agent.status()
        rule = {"from": [{"podSelector": {"matchLabels": {"app": app}}}]}
        selector = {"matchLabels": {"app": "server"}}
        self.api.put(manifests.policy("app/server", podSelector=selector, policyTypes=["Ingress"], ingress=[rule]))
        self.agent.wait_until_enforced(before)


@pytest.fixture
def watched(box: Box) -> Iterator[Watched]:
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    server = ApiServer(tls=True, token=TOKEN, listener=listener, bookmark_interval_s=1.0)
    with ThreadedApiServer(server) as api:
        api.put(manifests.namespace("app"))
        for host in (SERVER, FRIEND, STRANGER):
            api.put(manifests.pod(host, NODE, app=host.name.split("/")[1]))
        config = api.kubeconfig(box.directory / "kubeconfig", token=TOKEN)
        flags = ("--kubeconfig", str(config), "--workers=2", "--strict-mode=false", "--fail-open=false")
        with Agent(box, None, *flags, limit_s=_LIMIT_S) as agent:
            yield Watched(box, api, agent)


def test_policies_of_the_api_server_apply_to_real_connections(watched: Watched) -> None:
    assert watched.reached() == [True] * 4
    watched.admit("friend")
    assert watched.reached() == [True, True, False, False]
    watched.admit("stranger")
    assert watched.reached() == [False, False, True, True]
    before = watched.agent.status()
    watched.api.delete(NETWORK_POLICIES, "app", "server")
    watched.agent.wait_until_enforced(before)
    assert watched.reached() == [True] * 4
    source = watched.agent.status()["source"]
    assert source["kind"] == "cluster"
    assert source["location"] == watched.api.url


def test_cluster_wide_policies_come_and_go_with_their_crd(watched: Watched) -> None:
    """The CRD comes while the agent runs, a policy denies, the CRD goes, and the connection is allowed again."""
    watched.admit("friend")
    assert watched.reached() == [True, True, False, False]
    friends = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "friend"}}}}
    rule = {"action": "Deny", "from": [friends]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]}
    before = watched.agent.status()
    watched.api.do(lambda server: server.serve(CLUSTER_POLICIES, "v1alpha2"))
    watched.api.put(
        {
            "apiVersion": CLUSTER_POLICIES.api_version,
            "kind": CLUSTER_POLICIES.kind,
            "metadata": {"name": "no-friends"},
            "spec": spec,
        }
    )
    watched.agent.wait_until_enforced(before)
    assert watched.reached() == [False] * 4
    before = watched.agent.status()
    watched.api.do(lambda server: server.delete_crd(CLUSTER_POLICIES))
    watched.agent.wait_until_enforced(before)
    assert watched.reached() == [True, True, False, False]
    assert watched.agent.status()["source"]["problems"] == []
    assert watched.agent.is_ready()


def test_a_server_that_does_not_answer_leaves_the_last_policies_in_force_and_the_agent_ready(watched: Watched) -> None:
    watched.admit("friend")
    watched.api.do(lambda server: server.strike(GoSilent()))
    watched.api.run(lambda server: server.refuse_connections())
    assert watched.reached() == [True, True, False, False]
    watched.api.do(lambda server: server.cut_connections())
    watched.agent.wait_until("the problem is in the status", lambda: bool(watched.agent.status()["source"]["problems"]))
    assert watched.agent.is_ready()
    assert "netpolq_source_age_seconds" in watched.agent.metrics()
    assert watched.reached() == [True, True, False, False]
    watched.api.run(lambda server: server.accept_connections())
    watched.admit("stranger")
    assert watched.reached() == [False, False, True, True]


def test_the_log_has_no_token(watched: Watched) -> None:
    watched.api.do(lambda server: server.rotate_token("another"))
    watched.api.do(lambda server: server.cut_connections())
    watched.agent.wait_until("the refusal is logged", lambda: "401" in watched.agent.log.read_text())
    assert TOKEN not in watched.agent.log.read_text()


class AgentInPod(Agent):
    """An agent in the environment of a pod: the files of a service account, and the server's address in environment variables."""

    def __init__(self, box: Box, account: Path, port: int, *flags: str) -> None:
        super().__init__(box, None, *flags)
        mounted = "/run/secrets/kubernetes.io/serviceaccount"
        script = f'mount -t tmpfs none /run && mkdir -p {mounted} && mount --bind "$0" {mounted} && exec "$@"'
        environment = ("KUBERNETES_SERVICE_HOST=127.0.0.1", f"KUBERNETES_SERVICE_PORT={port}")
        private = ("unshare", "--mount", "--propagation", "private")
        self._argv = ["env", *environment, *private, "sh", "-ec", script, str(account), *self._argv]


def test_in_a_pod_the_agent_uses_the_service_account_and_its_rotated_token(box: Box) -> None:
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    server = ApiServer(tls=True, token=TOKEN, listener=listener, bookmark_interval_s=1.0)
    with ThreadedApiServer(server) as api:
        api.put(manifests.namespace("app"))
        for host in (SERVER, FRIEND, STRANGER):
            api.put(manifests.pod(host, NODE, app=host.name.split("/")[1]))
        assert server.authority is not None
        account = write_service_account(box.directory / "account", server.authority.certificate, TOKEN)
        flags = ("--workers=2", "--strict-mode=false", "--fail-open=false")
        with AgentInPod(box, account, server.port, *flags) as agent:
            watched = Watched(box, api, agent)
            watched.admit("friend")
            assert watched.reached() == [True, True, False, False]
            api.do(lambda server: server.rotate_token("rotated"))
            write_service_account(account, server.authority.certificate, "rotated")
            api.do(lambda server: server.cut_connections())
            watched.admit("stranger")
            assert watched.reached() == [False, False, True, True]
