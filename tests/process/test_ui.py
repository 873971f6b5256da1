"""`netpolq ui` with running agents: on the node over the status socket, and through an API server."""

import json
import signal
import subprocess
import sys
import time

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode
from tests.process.conftest import admit, assert_admitted
from tests.process.test_flows_command import on_terminal, wait_for_flows
from tests.process.test_flows_of_cluster import TOKEN, Cluster, three_agents
from tests.support.commands import in_process

_LIMIT_S = 60.0
_STEP_S = 0.2
NO_HEADERS: Mapping[str, str] = {}


class Page:
    """A running `netpolq ui`."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url

    def get(self, path: str) -> Any:  # JSON
        return json.loads(self.text(path))

    def post(self, path: str, body: str) -> Any:  # JSON
        headers = {"X-Requested-With": "netpolq", "Content-Type": "application/yaml"}
        return json.loads(self.text(path, "POST", body, headers))

    def text(self, path: str, method: str = "GET", body: str | None = None, headers: Mapping[str, str] = NO_HEADERS) -> str:
        connection = HTTPConnection(self.url.removeprefix("http://").rstrip("/"), timeout=_LIMIT_S)
        try:
            connection.request(method, f"/{path}", body, headers)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def until(self, path: str, condition: Callable[[Any], bool]) -> Any:  # JSON
        """The first answer that meets a condition."""
        limit_s = time.monotonic() + _LIMIT_S
        while not condition(found := self.get(path)):
            assert self.process.poll() is None
            assert time.monotonic() < limit_s, found
            time.sleep(_STEP_S)
        return found

    def edges(self, wanted: int) -> dict[str, Any]:
        """The edges by id, once there are so many."""
        found = self.until("api/map?since=3600", lambda found: len(found["edges"]) >= wanted)
        return {edge["id"]: edge for edge in found["edges"]}


def command(*flags: object) -> list[str]:
    return [sys.executable, "-P", "-m", "netpolq", "ui", "--listen=127.0.0.1:0", *map(str, flags)]


@contextmanager
def page_of(*flags: object) -> Iterator[Page]:
    with subprocess.Popen(command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), process.stderr.read()
            yield Page(process, url)
            process.terminate()
            errors = process.communicate(timeout=_LIMIT_S)[1]
            assert (process.returncode, errors) == (ExitCode.OK, "")
        finally:
            process.kill()


@pytest.fixture
def agent(box: Box, folder: Path) -> Iterator[Agent]:
    """An agent that has recorded connections of both clients, of which it admits the friend."""
    with Agent(box, folder, "--workers=1", "--fail-open=false") as agent:
        assert_admitted(box, "friend")
        wait_for_flows(agent)
        yield agent


@pytest.fixture
def page(agent: Agent) -> Iterator[Page]:
    with page_of("--run-dir", agent.run_dir) as page:
        yield page


FRIEND, STRANGER = "app/friend|app/server|accept", "app/stranger|app/server|deny"


def test_every_page_shows_what_the_agent_has_seen(box: Box, agent: Agent, folder: Path, page: Page) -> None:
    edges = page.edges(2)
    assert edges.keys() == {FRIEND, STRANGER}
    assert edges[STRANGER]["reasons"] == ["ingress isolated by app/server"]
    assert page.get("api/map")["head"]["agents"] == {"total": 1, "missing": []}
    assert page.get("api/session")["where"] == "the agent on node"

    accepted, denied = (page.get(f"api/flows?verdict={verdict}")["flows"] for verdict in ("accept", "deny"))
    assert {flow["source"]["pod"] for flow in accepted} == {"friend"}
    assert {flow["source"]["pod"] for flow in denied} == {"stranger"}
    before = sum(flow["connections"] for flow in accepted)
    assert before == edges[FRIEND]["connections"]

    (policy,) = page.get("api/policies")["policies"]
    (rule,) = policy["rules"]
    assert (policy["id"], policy["selects"]) == ("NetworkPolicy/app/server", {"pods": 1, "examples": ["app/server"]})
    assert (rule["text"], rule["connections"]) == ("from pods app=friend in namespace app to every port", before)
    assert policy["isolated"]["ingress"]["connections"] == edges[STRANGER]["connections"]
    assert "app: friend" in page.text("api/policies/yaml?id=NetworkPolicy/app/server")

    explained = page.get("api/explain?source=app/stranger&destination=app/server&port=80")
    flags = ("--src=app/stranger", "--dst=app/server", "--port=80", f"--run-dir={agent.run_dir}")
    assert explained["answer"] == json.loads(in_process("explain", *flags, "-o", "json")[1])
    assert explained["text"] == in_process("explain", *flags)[1]

    admit(folder.parent, "stranger")
    change = json.loads((folder.parent / "policy.json").read_text(encoding="utf-8"))
    found = page.post("api/what-if?since=3600&new_has=changes", json.dumps(change))
    assert (found["cuts"], found["rejections"]) == (1, [])
    assert "app/friend -> app/server: TCP 80: all -> none\n" in found["text"]

    node = page.until("api/nodes", lambda found: found["nodes"][0]["version"] is not None)["nodes"][0]
    assert (node["id"], node["reachable"], node["ready"], node["problem"]) == ("node", True, True, None)
    assert node["workers"][0]["packets"] > 0

    assert_admitted(box, "friend")
    page.until("api/flows?verdict=accept", lambda found: sum(flow["connections"] for flow in found["flows"]) == before + 1)


def test_an_agent_that_goes_is_missing_and_one_that_returns_is_not_counted_twice(box: Box, agent: Agent, page: Page) -> None:
    before = page.edges(2)[FRIEND]["connections"]
    supervisor = agent.supervisor()
    assert supervisor is not None
    supervisor.kill()
    agent.wait_until("ready", lambda: agent.supervisor() not in {None, supervisor} and agent.is_ready())
    assert_admitted(box, "friend")
    page.until("api/map?since=3600", lambda found: connections(found) == before + 1)

    agent.kill_all()
    missing = page.until("api/map", lambda found: found["head"]["agents"]["missing"] != [])["head"]["agents"]["missing"]
    assert [one["node"] for one in missing] == ["node"]
    assert "cannot be reached: Connection refused" in missing[0]["reason"]
    assert page.get("api/nodes")["nodes"][0]["reachable"] is False
    agent.start()
    page.until("api/map", lambda found: found["head"]["agents"]["missing"] == [])
    assert_admitted(box, "friend")
    page.until("api/map?since=3600", lambda found: connections(found) == before + 2)


def connections(found: Any) -> int:
    return sum(edge["connections"] for edge in found["edges"] if edge["id"] == FRIEND)


def test_an_agent_that_was_never_there_is_missing_with_the_reason(tmp_path: Path) -> None:
    with page_of(f"--agent={tmp_path / 'status.sock'}") as page:
        agents = page.until("api/map", lambda found: "reached" in str(found))["head"]["agents"]
        assert agents["total"] == 1
        assert agents["missing"][0]["reason"].endswith("cannot be reached: No such file or directory")
        assert "cannot be reached" in page.get("api/policies")["head"]["problem"]
        assert "cannot be reached" in page.get("api/explain?source=a/b&destination=c/d&port=1")["error"]


@pytest.fixture
def cluster(box: Box, agent: Agent) -> Iterator[Cluster]:
    with three_agents(agent, box.directory) as cluster:
        yield cluster


@pytest.mark.flows
def test_agents_of_a_cluster_are_found_lost_and_found_again(box: Box, agent: Agent, cluster: Cluster) -> None:
    with page_of(f"--kubeconfig={cluster.kubeconfig}") as page:
        agents = page.until("api/map", lambda found: found["head"]["agents"] == {"total": 3, "missing": []})
        assert TOKEN not in json.dumps(agents)
        before = page.until("api/map?since=3600", lambda found: connections(found) >= 3)
        assert page.get("api/session")["where"] == f"the agents of {cluster.api.url}"
        page.until("api/nodes", lambda found: all(node["version"] is not None for node in found["nodes"]))
        cluster.api.do(lambda server: server.containers.pods.pop("netpolq-3"))
        cluster.put("netpolq-2-new", "node-2", created="2026-02-01T00:00:00Z")
        cluster.api.do(lambda server: server.containers.pods.pop("netpolq-2"))
        page.until("api/nodes", lambda found: [node["pod"] for node in found["nodes"]] == ["netpolq-1", "netpolq-2-new"])
        cluster.api.do(lambda server: server.cut_connections())
        page.until("api/map", lambda found: len(found["head"]["agents"]["missing"]) > 0)
        page.until("api/map", lambda found: found["head"]["agents"] == {"total": 2, "missing": []})
        assert_admitted(box, "friend")
        page.until("api/map?since=3600", lambda found: connections(found) == connections(before) + 2)


def test_the_manifest_of_a_policy_is_that_of_the_api_server(cluster: Cluster) -> None:
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "app", "name": "server", "labels": {"owner": "me"}, "managedFields": [{"manager": "kubectl"}]},
        "spec": {"podSelector": {}},
    }
    cluster.api.put(body)
    with page_of(f"--kubeconfig={cluster.kubeconfig}", "--node=node-1") as page:
        text = page.text("api/policies/yaml?id=NetworkPolicy/app/server")
    assert "owner: me" in text
    assert "managedFields" not in text


def test_ctrl_c_ends_the_command(tmp_path: Path) -> None:
    with on_terminal(command("--demo")) as terminal:
        terminal.read_until("Ctrl-C ends it.")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == ExitCode.OK
        assert "Traceback" not in terminal.text


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--listen=0.0.0.0:0",), ExitCode.USAGE, "--listen 0.0.0.0:0: other hosts reach this address"),
        (("--listen=:8080",), ExitCode.USAGE, "needs --token-file FILE or --authentication kubernetes"),
        (("--demo", "--agent=/x"), ExitCode.USAGE, "--demo: cannot be combined with --agent"),
        (("--demo", "--kubeconfig=/x"), ExitCode.USAGE, "--demo: cannot be combined with --kubeconfig or --context"),
        (("--demo", "--run-dir=/run/x"), ExitCode.USAGE, "--run-dir: cannot be combined with --demo"),
        (
            ("--node=a",),
            ExitCode.USAGE,
            "flag --node: is for the agents of a cluster; give --kubeconfig FILE or --context NAME, too",
        ),
        (("--kubeconfig=/nonexistent", "--listen=127.0.0.1:0"), ExitCode.BOOT, "/nonexistent"),
    ],
)
def test_flags_that_do_not_fit_are_errors(flags: tuple[str, ...], code: ExitCode, text: str) -> None:
    found, printed, errors = in_process("ui", *flags)
    assert (found, text in errors) == (code, True), errors
    assert printed == "", "no address of a page that does not come"
