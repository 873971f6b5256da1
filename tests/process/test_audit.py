"""Policies in audit on a running agent: they deny nothing, and flows, metrics and log tell what they would deny."""

import socket

from pathlib import Path
from typing import cast

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe
from netpolq.decision import Isolation
from netpolq.enums import Direction
from netpolq.flows.record import FlowVerdict
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER, assert_admitted
from tests.process.test_flows import wait_for

AUDIT = {"policy.netpolq.io/enforcement": "audit"}
ENFORCE = {"policy.netpolq.io/enforcement": "enforce"}


def write_policy(folder: Path, annotations: dict[str, str]) -> None:
    """The policy of the testbed, which admits the friend, with annotations."""
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}
    policy = manifests.policy("app/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[rule])
    cast("dict[str, object]", policy["metadata"])["annotations"] = annotations
    manifests.write(folder / "policy.json", [policy])


def all_reach(box: Box) -> bool:
    probes = [
        Probe(client.name, box.address(SERVER.name, family), protocol, 80)
        for client in (FRIEND, STRANGER)
        for family in (4, 6)
        for protocol in ("TCP", "UDP")
    ]
    return all(result.reached for result in box.probe(probes))


@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_policy_in_audit_denies_nothing_and_reports_each_connection_that_it_would_deny(
    box: Box, folder: Path, cache: str
) -> None:
    """Also with the kernel's cache, from which the connection would be answered after the third attempt."""
    write_policy(folder, AUDIT)
    with Agent(box, folder, "--workers=1", "--fail-open=false", f"--verdict-cache={cache}", "--log-denied") as agent:
        for _number in range(6):
            assert all_reach(box)

        def would_deny() -> int:
            return sum(record.connections for record in wait_for(agent, bool, "since=3600&denied=true"))

        agent.wait_until("each is reported", lambda: would_deny() >= 24)
        for record in wait_for(agent, bool, "since=3600&denied=true"):
            flow = record.flow
            assert flow.verdict is FlowVerdict.WOULD_DENY
            assert flow.source.pod_name == STRANGER.name
            assert (flow.egress, flow.ingress, flow.audit_egress) == (None, None, None)
            assert flow.audit_ingress == Isolation(Direction.INGRESS, (SERVER.name,))
        labels = 'direction="ingress",policy="server",policy_namespace="app",rule="",tier="network-policy",verdict="would-deny"'
        series = f"netpolq_policy_connections_total{{{labels}}}"
        agent.wait_until("the metric counts them", lambda: f"{series} {float(would_deny())}" in agent.metrics())
        line = "not-isolated, would-deny: ingress isolated by app/server"
        agent.wait_until("the log tells", lambda: line in agent.log.read_text())


def test_the_end_of_audit_is_a_change_of_policy_also_for_established_connections(box: Box, folder: Path) -> None:
    write_policy(folder, AUDIT)
    with Agent(box, folder, "--workers=1", "--fail-open=false") as agent:
        assert all_reach(box)
        with (
            box.inside(SERVER.name, lambda: socket.create_server((box.address(SERVER.name, 4), 8080))) as server,
            box.inside(STRANGER.name, lambda: socket.create_connection((box.address(SERVER.name, 4), 8080), 10)) as client,
        ):
            peer, _address = server.accept()
            peer.settimeout(1.0)
            client.sendall(b"before")
            assert peer.recv(64) == b"before"
            before = agent.status()
            write_policy(folder, ENFORCE)
            agent.wait_until_enforced(before)
            assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))

            def is_cut() -> bool:
                client.sendall(b"after")
                try:
                    return not peer.recv(64)
                except TimeoutError:
                    return True

            agent.wait_until("the connection is cut", is_cut)
            peer.close()
            before = agent.status()
            write_policy(folder, AUDIT)
            agent.wait_until_enforced(before)
            assert all_reach(box)


def test_namespace_node_and_policy_say_what_is_in_audit_and_the_closest_one_counts(box: Box, folder: Path) -> None:
    write_policy(folder, {})
    with Agent(box, folder, "--workers=1", "--fail-open=false", "--audit") as agent:
        assert all_reach(box)
        before = agent.status()
        namespace = manifests.namespace("app")
        cast("dict[str, object]", namespace["metadata"])["annotations"] = ENFORCE
        pods = (manifests.pod(host, NODE, app=host.name.split("/")[1]) for host in (SERVER, FRIEND, STRANGER))
        manifests.write(folder / "cluster.json", [namespace, *pods])
        agent.wait_until_enforced(before)
        assert_admitted(box, "friend", families=(4,))
        before = agent.status()
        write_policy(folder, AUDIT)
        agent.wait_until_enforced(before)
        assert all_reach(box)


def test_an_unreadable_annotation_enforces_and_is_reported(box: Box, folder: Path) -> None:
    write_policy(folder, {"policy.netpolq.io/enforcement": "dry-run"})
    with Agent(box, folder, "--workers=1") as agent:
        assert_admitted(box, "friend", families=(4,))
        (rejected,) = agent.status()["rejected"]
        assert "must be enforce or audit" in str(rejected)
