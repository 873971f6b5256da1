"""What a running agent tells about its pods, and the support bundle of its node."""

import io
import json
import os
import socket
import stat
import tarfile

from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq import cli
from netpolq.errors import ExitCode
from netpolq.ipc import settings_document
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER
from tests.support.apiserver import CLUSTER_POLICIES, ApiServer, ThreadedApiServer
from tests.support.cluster_policies import cluster_policy, rule

TOKEN = "secret-of-the-kubeconfig"  # noqa: S105
LABEL = "label-of-a-pod"
OTHER_VARIABLE = "value-of-another-variable"


@pytest.fixture
def agent(box: Box) -> Iterator[Agent]:
    """An agent that watches an API server with a token: the server is isolated, and a cluster-wide policy with names selects all pods."""
    listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
    server = ApiServer(tls=True, token=TOKEN, listener=listener, bookmark_interval_s=1.0)
    with ThreadedApiServer(server) as api:
        api.do(lambda server: server.serve(CLUSTER_POLICIES, "v1alpha2"))
        api.put(manifests.namespace("app"))
        for host in (SERVER, FRIEND, STRANGER):
            api.put(manifests.pod(host, NODE, app=host.name.split("/")[1], mark=LABEL))
        api.put(manifests.policy("app/closed", podSelector={"matchLabels": {"app": "server"}}, policyTypes=["Ingress"]))
        api.put(cluster_policy("names", egress=[rule("Accept", {"domainNames": ["*.example.com"]})]))
        config = api.kubeconfig(box.directory / "kubeconfig", token=TOKEN)
        with Agent(box, None, "--kubeconfig", str(config), "--workers=1", "--verdict-cache-ttl=77", limit_s=90.0) as agent:
            agent.wait_until("the cluster-wide policy is in force", lambda: has_names(agent))
            agent.wait_until("the newest snapshot is kept", lambda: is_kept(agent))
            yield agent


def has_names(agent: Agent) -> bool:
    """Whether the cluster-wide policy, which comes with its CRD, is in force."""
    document = json.loads(command(agent, "pods", "-o", "json"))
    reads_dns = [pod["reads_dns"] for pod in document["pods"]]
    return document["in_force_version"] == document["snapshot_version"] and reads_dns == [True] * 3


def is_kept(agent: Agent) -> bool:
    path = agent.run_dir / "snapshot.bin"
    return path.exists() and path.read_bytes()[-1:] == b"\x01"


def command(agent: Agent, *words: str, code: ExitCode = ExitCode.OK) -> str:
    """The output of a command, in the network namespace of the node."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        found = agent.box.inside(agent.box.node.name, lambda: cli.main([*words, "--run-dir", str(agent.run_dir)]))
    assert found == code, printed.getvalue()
    return printed.getvalue()


def unpacked(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:gz") as tar:
        files = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_pods_and_support_bundle_of_a_running_agent(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.split("  ") for line in command(agent, "pods").splitlines()]
    cells = {line[0]: [cell.strip() for cell in line[1:] if cell] for line in lines}
    assert cells.keys() == {"POD", "app/friend", "app/server", "app/stranger"}
    addresses = ", ".join(SERVER.addresses)
    assert cells[SERVER.name] == [addresses, "isolated by closed", "not isolated", "admin names (egress)", "read"]
    assert cells[FRIEND.name][1:3] == ["not isolated", "not isolated"]
    (pod,) = json.loads(command(agent, "pods", SERVER.name, "-o", "json"))["pods"]
    assert pod["ingress"] == {"isolated": True, "network_policies": ["app/closed"], "cluster_policies": []}
    assert {each["source"] for each in pod["addresses"]} == {"api"}
    assert "does not enforce policies for the pod 'app/none'" in command(agent, "pods", "app/none", code=ExitCode.FAILED)

    monkeypatch.setenv("NETPOLQ_V", "1")
    monkeypatch.setenv("OTHER", OTHER_VARIABLE)
    path = tmp_path / "bundle.tar.gz"
    log = str(agent.log)
    assert f"{path} has 14 parts" in command(agent, "support-bundle", "--output", str(path), "--log", log)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = unpacked(path)
    assert found.keys() == {
        *("status.json", "pods.json", "names.json", "settings.json", "metrics.txt", "loglevel.txt", "snapshot.json", "agent.log"),
        *("ruleset.nft", "ruleset.json", "nfnetlink_queue.txt", "conntrack.txt", "versions.json", "environment.json"),
    }
    whole = b"\n".join(found.values())
    for secret in (TOKEN, LABEL, OTHER_VARIABLE):
        assert secret.encode() not in whole
    assert TOKEN in (agent.run_dir.parent / "kubeconfig").read_text(), (
        "the kubeconfig has the secret that the bundle must not have"
    )

    status = json.loads(found["status.json"])
    settings = settings_document.decode(found["settings.json"].decode())
    assert settings.verdict_cache_ttl_s == 77
    assert settings.kubeconfig == str(agent.run_dir.parent / "kubeconfig")
    assert json.loads(found["snapshot.json"])["version"] == status["snapshot_version"]
    assert json.loads(found["snapshot.json"])["isolated_addresses"] == {"egress": 0, "ingress": len(SERVER.addresses)}
    assert len(json.loads(found["pods.json"])["pods"]) == 3
    assert json.loads(found["environment.json"]) == {"NETPOLQ_V": "1"}
    assert f'kernel="{os.uname().release}"'.encode() in found["metrics.txt"]
    assert b"netpolq_build_info{" in found["metrics.txt"]
    assert b'nfqueue_queue_total{queue="' in found["metrics.txt"]
    assert found["ruleset.nft"].startswith(b"table inet netpolq {")
    assert any("table" in part for part in json.loads(found["ruleset.json"])["nftables"])
    assert str(settings.queue_first) in found["nfnetlink_queue.txt"].decode().split()
    assert b"nf_conntrack_max " in found["conntrack.txt"]
    assert b"starts on node" in found["agent.log"]

    before = path.read_bytes()
    assert "exists and is not overwritten" in command(agent, "support-bundle", "--output", str(path), code=ExitCode.FAILED)
    assert path.read_bytes() == before


def test_the_bundle_of_an_agent_that_has_stopped_has_the_rest(agent: Agent, tmp_path: Path) -> None:
    agent.stop()
    path = tmp_path / "bundle.tar.gz"
    printed = command(agent, "support-bundle", "--output", str(path), code=ExitCode.FAILED)
    assert "status.json could not be read: no agent answers" in printed
    found = unpacked(path)
    assert found.keys() == {
        *("snapshot.json", "ruleset.nft", "ruleset.json", "nfnetlink_queue.txt", "conntrack.txt", "versions.json"),
        *("environment.json", "errors.txt"),
    }
    assert len(found["errors.txt"].splitlines()) == 6
