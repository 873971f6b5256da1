"""`netpolq explain --kubeconfig` against an API server."""

import json
import os
import pty
import re

from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from loadtest.testbed import manifests
from netpolq import cli
from netpolq.errors import ExitCode
from netpolq.sources.kubernetes.one_time_list import without_credentials
from netpolq.sources.kubernetes.timing import Timing
from tests.support.apiserver import (
    CLUSTER_POLICIES,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SERVICES,
    Answer,
    ApiServer,
    CloseAbruptly,
    Resource,
    ThreadedApiServer,
    Verb,
)
from tests.support.cluster_policies import cluster_policy, rule

TOKEN = "secret-of-the-kubeconfig"  # noqa: S105


def pod(name: str, address: str, **labels: str) -> manifests.Body:
    namespace, _slash, short = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": short, "labels": labels},
        "spec": {"nodeName": "a", "containers": []},
        "status": {"phase": "Running", "podIP": address, "hostIP": "192.168.0.1"},
    }


BODIES = (
    manifests.namespace("shop"),
    pod("shop/web", "10.0.0.1", app="web"),
    pod("shop/db", "10.0.0.2", app="db"),
    pod("shop/other", "10.0.0.3", app="other"),
    manifests.policy(
        "shop/db",
        podSelector={"matchLabels": {"app": "db"}},
        policyTypes=["Ingress"],
        ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}],
    ),
)
QUESTION = ("--src=shop/other", "--dst=shop/db:5432")


@pytest.fixture
def api() -> Iterator[ThreadedApiServer]:
    with ThreadedApiServer(ApiServer(tls=True, token=TOKEN)) as api:
        for body in BODIES:
            api.put(body)
        yield api


@pytest.fixture
def config(api: ThreadedApiServer, tmp_path: Path) -> Path:
    return api.kubeconfig(tmp_path / "kubeconfig", token=TOKEN)


def explained(config: Path, *words: str, code: ExitCode = ExitCode.OK, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints on both streams."""
    found = cli.main(["explain", "--kubeconfig", str(config), *words])
    printed = "".join(capsys.readouterr())
    assert found == code, printed
    assert TOKEN not in printed
    return printed


def lists_of(api: ThreadedApiServer, resource: Resource) -> int:
    return len(api.do(lambda server: server.asked(resource)))


def test_the_answer_is_that_of_the_manifests_and_names_the_server(
    api: ThreadedApiServer, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests.write(tmp_path / "all.json", BODIES)
    for words, code in (
        ((*QUESTION, "--expect=deny"), ExitCode.OK),
        ((*QUESTION, "--expect=allow"), ExitCode.UNEXPECTED),
        (("--src=shop/web", "--dst=10.0.0.2", "--port=5432"), ExitCode.OK),
    ):
        assert cli.main(["explain", "--manifests", str(tmp_path / "all.json"), *words]) == code
        offline = capsys.readouterr().out
        *answer, last = explained(config, *words, code=code, capsys=capsys).splitlines()
        assert answer == offline.splitlines()
        assert re.fullmatch(rf"policies     of {re.escape(api.url)}, listed at 20\S+Z within \d+\.\d s", last)
        cli.main(["explain", "--manifests", str(tmp_path / "all.json"), *words, "-o=json"])
        expected = json.loads(capsys.readouterr().out)
        document = json.loads(explained(config, *words, "-o=json", code=code, capsys=capsys))
        assert document.pop("cluster").keys() == {"server", "listed_at", "took_s"}
        assert document == expected


def test_cluster_wide_policies_are_read_where_the_server_has_them_and_nodes_where_they_need_them(
    api: ThreadedApiServer, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "accept, not-isolated" in explained(config, "--src=shop/web", "--dst=192.168.0.9:80", capsys=capsys)
    api.do(lambda server: server.serve(CLUSTER_POLICIES, "v1alpha2"))
    api.put(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "a", "labels": {"pool": "x"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.9"}]},
        }
    )
    api.put(cluster_policy("all", egress=[{"name": "everything", **rule("Deny", {"namespaces": {}})}]))
    assert "denied by admin all, spec.egress[0] (everything)" in explained(
        config, "--src=shop/web", "--dst=shop/db:5432", capsys=capsys
    )
    assert api.do(lambda server: server.asked(NODES)) == []
    api.put(cluster_policy("all", egress=[{"name": "nodes", **rule("Deny", {"nodes": {"matchLabels": {"pool": "x"}}})}]))
    assert "denied by admin all, spec.egress[0] (nodes)" in explained(
        config, "--src=shop/web", "--dst=192.168.0.9:80", capsys=capsys
    )
    assert api.do(lambda server: server.asked(verb=Verb.WATCH)) == []


def test_services_and_workloads_are_listed_where_the_question_needs_them(
    api: ThreadedApiServer, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.put(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "shop", "name": "db"},
            "spec": {"clusterIP": "10.96.0.5", "ports": [{"port": 1, "targetPort": 5432}]},
        }
    )
    api.put(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": "db-x", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 5432}],
            "endpoints": [{"addresses": ["10.0.0.2"]}],
        }
    )
    template = {"metadata": {"labels": {"app": "web", "new": "true"}}, "spec": {"containers": []}}
    api.put(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"template": template},
        }
    )
    explained(config, *QUESTION, capsys=capsys)
    assert [lists_of(api, resource) for resource in (SERVICES, ENDPOINT_SLICES, DEPLOYMENTS)] == [0, 0, 0]
    for destination in ("svc/shop/db", "10.96.0.5:1", "db.shop.svc.cluster.local"):
        lines = explained(config, "--src=deploy/shop/web", f"--dst={destination}", "--expect=allow", capsys=capsys).splitlines()
        assert lines[0] == "asked for    service shop/db, TCP port 1: 1 endpoint of EndpointSlices"
        assert "source       deployment shop/web (its pod template, without an address)" in lines
    api.do(lambda server: server.forbid(SERVICES))
    refused = explained(config, "--src=shop/web", "--dst=svc/shop/db", code=ExitCode.FAILED, capsys=capsys)
    assert "--dst: service shop/db: " in refused
    assert "the user needs the verb list of services in API group" in refused
    unclear = explained(config, "--src=shop/web", "--dst=10.96.0.5:1", capsys=capsys)
    assert "note         whether 10.96.0.5 is the address of a Service is not known: " in unclear


def test_long_lists_are_read_in_pages_with_progress_on_a_terminal(
    api: ThreadedApiServer, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 130):
        api.put(pod(f"many/pod-{number}", f"10.1.0.{number}"))
    monkeypatch.setattr("netpolq.sources.kubernetes.one_time_list.Timing", lambda: Timing(page_objects=50))
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal, redirect_stderr(terminal):
        assert cli.main(["explain", "--kubeconfig", str(config), "--src=many/pod-129", "--dst=shop/db:5432"]) == ExitCode.OK
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert "listing pods: 50 of 132" in shown
    assert "listing pods: 132\r" in shown
    assert shown.endswith("\x1b[K")
    assert capsys.readouterr().out.startswith("verdict      drop")


def test_pages_that_expire_are_read_again_as_a_whole(
    api: ThreadedApiServer, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.inject(Answer(resource=PODS, verb=Verb.LIST, code=410, reason="Expired"))
    assert "verdict      drop" in explained(config, *QUESTION, capsys=capsys)


def test_errors_name_server_verb_and_resource(
    api: ThreadedApiServer, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.do(lambda server: server.forbid(NETWORK_POLICIES))
    forbidden = explained(config, *QUESTION, code=ExitCode.FAILED, capsys=capsys)
    assert f"{api.url} refuses the list of networkpolicies: 403 " in forbidden
    assert 'the user needs the verb list of networkpolicies in API group "networking.k8s.io"' in forbidden
    api.do(lambda server: server.forbid())
    api.inject(CloseAbruptly(resource=PODS, verb=Verb.LIST, times=None))
    assert f"{api.url} cannot be reached for the list of pods: " in explained(
        config, *QUESTION, code=ExitCode.FAILED, capsys=capsys
    )
    api.do(lambda server: server.clear())
    other = api.kubeconfig(tmp_path / "other", token="wrong")
    assert "401" in explained(other, *QUESTION, code=ExitCode.FAILED, capsys=capsys)
    assert "No such file" in explained(tmp_path / "none", *QUESTION, code=ExitCode.FAILED, capsys=capsys)
    assert "there is no context 'b'; allowed: test" in explained(
        config, *QUESTION, "--context=b", code=ExitCode.FAILED, capsys=capsys
    )
    assert "verdict" in explained(config, *QUESTION, "--context=test", capsys=capsys)
    unreachable = tmp_path / "unreachable"
    unreachable.write_text(config.read_text().replace(api.url, "https://127.0.0.1:1"))
    printed = explained(unreachable, *QUESTION, code=ExitCode.FAILED, capsys=capsys)
    assert "https://127.0.0.1:1: the API groups cannot be read: " in printed
    unreachable.write_text(config.read_text().replace(api.url, "https://user:password@127.0.0.1:1"))
    printed = explained(unreachable, *QUESTION, code=ExitCode.FAILED, capsys=capsys)
    assert "the URL of https://127.0.0.1:1 has a user name; give credentials under users" in printed
    assert "password" not in printed


def test_the_matrix_of_a_cluster_is_that_of_its_manifests(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], api: ThreadedApiServer
) -> None:
    manifests.write(tmp_path / "all.json", BODIES)
    assert cli.main(["matrix", "--manifests", str(tmp_path / "all.json")]) == ExitCode.OK
    offline = capsys.readouterr().out
    assert cli.main(["matrix", "--kubeconfig", str(config)]) == ExitCode.OK
    printed = capsys.readouterr()
    assert printed.out == offline
    assert printed.err.startswith(f"policies: of {api.url}, listed at ")
    assert cli.main(["matrix", "--kubeconfig", str(config), "-o=json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["cluster"]["server"] == api.url


def test_a_folder_of_policies_is_compared_with_a_cluster(
    api: ThreadedApiServer, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = manifests.policy("shop/web", podSelector={"matchLabels": {"app": "web"}}, policyTypes=["Ingress"])
    manifests.write(tmp_path / "closed.json", [closed])

    def differs(*words: str) -> str:
        assert cli.main(["diff", *words, f"--kubeconfig={config}"]) == ExitCode.UNEXPECTED
        printed = capsys.readouterr()
        assert TOKEN not in printed.out + printed.err
        assert f"OLD: of {api.url}, listed at " in printed.err
        return printed.out

    changes = differs("cluster:", str(tmp_path / "closed.json"), "--new-has=changes")
    assert "shop/other -> shop/web: TCP; UDP; SCTP; other protocols: all -> none" in changes
    assert "-> shop/db:" not in changes
    assert "shop/other -> shop/db: " in differs("cluster:test", str(tmp_path / "closed.json"), "--new-has=policies")
    assert cli.main(["diff", "cluster:", "cluster:test", f"--kubeconfig={config}", "-o=json"]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["changes"] == []
    assert document["origins"]["new"]["cluster"]["server"] == api.url


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (
            ["--manifests=x", "--kubeconfig=y"],
            "flag --kubeconfig: 'y' cannot be combined with --manifests; allowed: one of the two",
        ),
        (["--context=x"], "flag --context: 'x' needs --kubeconfig FILE"),
        (["--kubeconfig="], "flag --kubeconfig: a path is required"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", *QUESTION, *words]) == ExitCode.USAGE
    assert part in capsys.readouterr().err


def test_urls_are_shown_without_credentials() -> None:
    assert without_credentials("https://a:b@[::1]:6443/x?token=y#z") == "https://[::1]:6443/x"
