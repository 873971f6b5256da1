"""An agent in a cluster that knows the address of a new pod from its CNI result, before the API reports it.

The agent has the capabilities of the shipped DaemonSet, and the files are root's with mode 0600, in a folder with mode 0700.
"""

import os
import socket

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from loadtest.testbed.probe import Probe
from netpolq.supervisor import status_client
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER
from tests.support.apiserver import PODS, ApiServer, Body, ThreadedApiServer
from tests.support.cni_results import loopback_document, result_document, write_result

_LIMIT_S = 90.0
_SHIPPED_CAPABILITIES = ("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin", "--")


class Node(NamedTuple):
    """A node whose pods need the policy `app/isolated`, which denies egress of pods with the label `app: stranger`."""

    box: Box
    api: ThreadedApiServer
    agent: Agent
    results: Path

    def reached(self, client: Host) -> list[bool]:
        """Whether a client reaches the server, over both families."""
        probes = [Probe(client.name, self.box.address(SERVER.name, family), "TCP", 80) for family in (4, 6)]
        return [result.reached for result in self.box.probe(probes)]

    def put(self, host: Host, *, phase: str = "Running") -> None:
        """Put the pod of a host, and wait until that is in force; a pending one has no address."""
        before = self.agent.status()
        body = manifests.pod(host, NODE, app=host.name.split("/")[1])
        self.api.put(body if phase == "Running" else {**body, "status": {"phase": phase}})
        self.agent.wait_until_enforced(before)

    def delete(self, host: Host) -> None:
        """Delete the pod of a host, and wait until that is in force."""
        before = self.agent.status()
        self.api.delete(PODS, *host.name.split("/"))
        self.agent.wait_until_enforced(before)

    def uid(self, host: Host) -> str:
        """The UID of a pod. The server assigns it."""
        return str(cast("Body", self.api.objects(PODS)[host.name]["metadata"])["uid"])

    def add(self, host: Host, uid: str, addresses: tuple[str, ...], *, sandbox: str = "s1") -> None:
        """Write the files of a new sandbox as the container runtime does, and wait until they are in force."""
        before = self.agent.status()
        self.results.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_result(self.results, loopback_document(host.name, uid, sandbox=sandbox))
        write_result(self.results, result_document(host.name, uid, *addresses, sandbox=sandbox))
        self.agent.wait_until_enforced(before)

    def cni_results(self) -> dict[str, object]:
        found = self.agent.status()["cni_results"]
        assert found is not None
        return found

    def until(self, **fields: object) -> None:
        """Wait until the status has these values."""
        self.agent.wait_until(f"in the status: {fields}", lambda: self.cni_results().items() >= fields.items())


def sources(node: Node) -> dict[str, set[str]]:
    """Where the addresses of each pod come from, as `netpolq pods` tells."""
    pods = status_client.fetch_pods(node.agent.run_dir).pods
    return {f"{pod.namespace}/{pod.name}": {address.source for address in pod.addresses} for pod in pods}


@pytest.fixture
def node(box: Box) -> Iterator[Node]:
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    with ThreadedApiServer(ApiServer(listener=listener, bookmark_interval_s=1.0)) as api:
        api.put(manifests.namespace("app"))
        api.put(
            manifests.policy("app/isolated", podSelector={"matchLabels": {"app": "stranger"}}, policyTypes=["Egress"], egress=[])
        )
        results = box.directory / "cni" / "results"
        flags = (
            f"--kubeconfig={api.kubeconfig(box.directory / 'kubeconfig')}",
            f"--cni-results={results}",
            "--hold-unknown=off",
            "--workers=2",
        )
        with Agent(box, None, *flags, limit_s=_LIMIT_S, prefix=_SHIPPED_CAPABILITIES) as agent:
            node = Node(box, api, agent, results)
            node.put(SERVER)
            yield node


def test_a_pod_is_isolated_from_its_first_packet_though_the_api_does_not_report_its_address(node: Node) -> None:
    node.put(STRANGER, phase="Pending")
    assert node.cni_results()["folder_exists"] is False
    node.add(STRANGER, node.uid(STRANGER), STRANGER.addresses)
    assert node.reached(STRANGER) == [False, False]
    assert node.cni_results() == {
        "location": str(node.results),
        "folder_exists": True,
        "early_addresses": 2,
        "unusable_files": 0,
        "example": "",
        "problems": [],
    }
    assert "netpolq_early_addresses_total 2.0" in node.agent.metrics()
    assert sources(node) == {SERVER.name: {"api"}, STRANGER.name: {"cni-result"}}
    node.put(STRANGER)
    assert node.cni_results()["early_addresses"] == 0
    assert sources(node) == {SERVER.name: {"api"}, STRANGER.name: {"api"}}
    for path in node.results.iterdir():
        path.unlink()
    assert node.reached(STRANGER) == [False, False]
    node.delete(STRANGER)
    assert node.reached(STRANGER) == [True, True]
    assert "netpolq_early_addresses_total 2.0" in node.agent.metrics()


def test_a_sandbox_that_goes_again_takes_its_address_with_it(node: Node) -> None:
    node.put(STRANGER, phase="Pending")
    node.add(STRANGER, node.uid(STRANGER), STRANGER.addresses)
    assert node.reached(STRANGER) == [False, False]
    before = node.agent.status()
    for path in node.results.iterdir():
        path.unlink()
    node.agent.wait_until_enforced(before)
    assert node.reached(STRANGER) == [True, True]


def test_a_file_from_before_a_reboot_gives_no_address_to_a_new_pod_of_the_same_name(node: Node) -> None:
    node.put(STRANGER, phase="Pending")
    old = node.uid(STRANGER)
    node.add(STRANGER, old, FRIEND.addresses, sandbox="old")
    assert node.reached(FRIEND) == [False, False], "the address of the old pod"
    node.delete(STRANGER)
    node.put(STRANGER, phase="Pending")
    new = node.uid(STRANGER)
    assert new != old
    node.add(STRANGER, new, STRANGER.addresses, sandbox="new")
    assert node.cni_results()["early_addresses"] == 2
    assert node.reached(STRANGER) == [False, False]
    assert node.reached(FRIEND) == [True, True]


def test_hostile_files_are_reported_without_their_content_and_hide_no_other(node: Node) -> None:
    node.results.mkdir(mode=0o700, parents=True)
    os.mkfifo(node.results / "a-pipe")
    (node.results / "b-directory").mkdir()
    (node.results / "c-link").symlink_to("/etc/shadow")
    (node.results / "d-deep").write_bytes(b"[" * 1_000_000)
    (node.results / "e-secret").write_text('{"kind": "cniCacheV1", "cniArgs": "token-of-the-test"}')
    (node.results / "f-huge").write_bytes(bytes(3_000_000))
    for number in range(2000):
        document = result_document(f"app/p{number}", f"u{number}", "10.71.9.9", sandbox=f"s{number}")
        write_result(node.results, document)
    node.until(unusable_files=6, example="a-pipe: is not a regular file")
    node.put(STRANGER, phase="Pending")
    node.add(STRANGER, node.uid(STRANGER), STRANGER.addresses, sandbox="real")
    assert node.reached(STRANGER) == [False, False]
    assert "netpolq_unusable_cni_results 6.0" in node.agent.metrics()
    log = node.agent.log.read_text()
    assert "a-pipe: is not a regular file" in log
    assert "token-of-the-test" not in log
    assert node.agent.is_ready()
