"""`netpolq matrix` and `netpolq diff`: output, exit codes and errors."""

import json

from pathlib import Path

import pytest

from netpolq import cli
from netpolq.errors import ExitCode
from netpolq.reachability import cluster

PODS = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db, role: primary, statefulset.kubernetes.io/pod-name: db-0}}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {app: db, role: primary, statefulset.kubernetes.io/pod-name: db-1}}
status: {phase: Running, podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: proxy, namespace: shop}
spec: {hostNetwork: true}
status: {phase: Running, podIP: 192.0.2.9, hostIP: 192.0.2.9}
"""
DB = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}, {port: 5433}]
"""
FIRST_DB = DB.replace("app: db", "statefulset.kubernetes.io/pod-name: db-0")


def folder(path: Path, *texts: str) -> Path:
    path.mkdir()
    (path / "all.yaml").write_text("\n---\n".join(texts))
    return path


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    return folder(tmp_path / "manifests", PODS, DB)


def run(capsys: pytest.CaptureFixture[str], *words: object, expected: ExitCode = ExitCode.OK) -> tuple[str, str]:
    assert cli.main(list(map(str, words))) == expected
    return capsys.readouterr()


def test_the_matrix_is_a_table(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "matrix", "--manifests", manifests)
    assert err == ""
    assert out.splitlines()[0].split("  ")[0] == "from / to"
    rows = {line[2:12].strip(): line[12:].split() for line in out.splitlines()[1:]}
    assert rows == {
        "shop/db": ["none", "all", "all"],
        "shop/web": ["TCP", "5432-5433", "-", "all"],
        "outside": ["none", "all", "-"],
    }


def test_a_matrix_of_one_port(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "matrix", "--manifests", manifests, "--port", "5433", "-o", "csv")
    assert out == "from / to,shop/db,shop/web,outside\nshop/db,none,all,all\nshop/web,all,-,all\noutside,none,all,-\n"
    out, _ = run(capsys, "matrix", "--manifests", manifests / "all.yaml", "--port=5433", "--protocol=UDP", "-o", "markdown")
    assert out.splitlines()[2:4] == ["| shop/db | none | all | all |", "| shop/web | none | - | all |"]


def test_pods_of_a_group_that_differ_are_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "matrix", "--manifests", folder(tmp_path / "new", PODS, FIRST_DB), "--protocol", "TCP", "-o", "csv")
    assert out.splitlines()[1:] == [
        "shop/db,some,all,all",
        'shop/web,"TCP 5432-5433; some: TCP 1-5431, 5434-65535",-,all',
        "outside,some,all,-",
    ]


def test_json_has_groups_cells_and_pods_that_are_in_no_group(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifests / "bad.yaml").write_text("kind: Pod\napiVersion: v1\nmetadata: {name: x, namespace: shop}\nspec: 7\n")
    out, err = run(capsys, "matrix", "--manifests", manifests, "-o", "json")
    answer = json.loads(out)
    assert answer["groups"][0] == {"name": "shop/db", "pods": ["shop/db-0", "shop/db-1"]}
    assert answer["pods_without_address"] == ["shop/proxy", "shop/x"]
    cells = {(cell.pop("source"), cell.pop("destination")): cell for cell in answer["cells"]}
    assert cells["shop/web", "shop/db"] == {
        "connections": "ports",
        "allowed": [{"protocol": "TCP", "port": 5432, "endPort": 5433}],
        "allowed_for_some": [],
    }
    assert cells["outside", "outside"] == {"connections": None, "allowed": [], "allowed_for_some": []}
    assert cells["outside", "shop/db"]["connections"] == "none"
    assert "bad.yaml" in err
    assert answer["rejected"][0]["origin"] == "bad.yaml"


def test_equal_manifests_have_no_difference(manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = folder(tmp_path / "new", PODS, DB)
    assert run(capsys, "diff", manifests, new) == ("no connection changes\n", "")


def test_a_difference_names_ports_and_what_decides(manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = folder(tmp_path / "new", PODS, DB.replace(", {port: 5433}", ""))
    out, _ = run(capsys, "diff", manifests, new, expected=ExitCode.UNEXPECTED)
    assert out.splitlines() == [
        "shop/web -> shop/db: TCP 5433: all -> none",
        "  old  ingress allowed by shop/db, spec.ingress[0]",
        "  new  ingress isolated by shop/db",
    ]
    out, _ = run(capsys, "diff", new, manifests, "-o", "json", expected=ExitCode.UNEXPECTED)
    (change,) = json.loads(out)["changes"]
    assert (change["source"], change["destination"]) == ("shop/web", "shop/db")
    assert change["ports"] == [{"protocol": "TCP", "port": 5433, "endPort": 5433}]
    assert [change[version]["connections"] for version in ("old", "new")] == ["none", "all"]
    assert change["old"]["example"]["source"] == {"address": "10.0.0.1", "pod": "shop/web"}
    assert change["new"]["example"]["ingress"]["policy"] == "shop/db"


def test_a_change_for_some_pods_has_an_example_that_changed(
    manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = folder(tmp_path / "new", PODS, FIRST_DB)
    out, _ = run(capsys, "diff", manifests, new, "-o", "json", expected=ExitCode.UNEXPECTED)
    changes = {(change["source"], change["destination"]): change for change in json.loads(out)["changes"]}
    change = changes["outside", "shop/db"]
    assert [change[version]["connections"] for version in ("old", "new")] == ["none", "some"]
    assert change["old"]["example"]["policy"] == "shop/db"
    assert change["new"]["example"]["destination"]["pod"] == "shop/db-1"
    assert change["new"]["example"]["reason"] == "not-isolated"


def test_objects_in_one_version_are_listed(manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They change no connection."""
    other = PODS.partition("---")[0].replace("shop", "ops").replace("10.0.0.1", "10.0.0.7")
    new = folder(tmp_path / "new", PODS, DB, other)
    out, _ = run(capsys, "diff", manifests, new)
    assert out.splitlines() == [
        "no connection changes",
        "added workloads: ops/web",
        "added namespaces: ops",
        "added pods: ops/web",
    ]
    out, _ = run(capsys, "diff", new, manifests)
    assert "removed workloads: ops/web" in out


def test_a_workload_is_the_same_with_more_pods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name may be another one."""
    web = PODS.partition("---")[0]
    second = web.replace("name: web", "name: web-2").replace("10.0.0.1", "10.0.0.5")
    old, new = folder(tmp_path / "old", PODS), folder(tmp_path / "new", PODS, second, DB)
    out, _ = run(capsys, "diff", old, new, expected=ExitCode.UNEXPECTED)
    assert "outside -> shop/db: TCP; UDP; SCTP; other protocols: all -> none" in out
    assert "shop/web -> shop/db: TCP 1-5431, 5434-65535; UDP; SCTP; other protocols: all -> none" in out
    assert "workloads" not in out


def test_rejections_of_two_versions_have_the_path_in_front(
    manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = folder(tmp_path / "new", PODS, DB, "kind: Pod\napiVersion: v1\nmetadata: {name: x, namespace: shop}\nspec: 7\n")
    _, err = run(capsys, "diff", manifests, new)
    assert err.startswith(f"{new}: all.yaml document 6: ")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["matrix", "--manifests", ".", "--kubeconfig", "x"], "'x' cannot be combined with --manifests; allowed: one of the two"),
        (["matrix", "--manifests="], "--manifests DIR is required"),
        (["diff", "cluster:", "."], "OLD 'cluster:' needs --kubeconfig FILE"),
        (["diff", ".", "cluster:x"], "NEW 'cluster:x' needs --kubeconfig FILE"),
        (["diff", ".", ".", "--kubeconfig", "x"], "--kubeconfig: neither OLD nor NEW is cluster: or cluster:CONTEXT"),
        (
            ["diff", ".", ".", "--new-has", "pods"],
            "flag --new-has: invalid value 'pods'; allowed: everything, changes or policies",
        ),
        (["matrix", "--manifests", "nowhere"], "--manifests 'nowhere': No such file or directory"),
        (["matrix", "--manifests", ".", "--port", "http"], "flag --port: invalid value 'http'; allowed: 1 to 65535"),
        (
            ["matrix", "--manifests", ".", "--protocol", "ICMP"],
            "flag --protocol: invalid value 'ICMP'; allowed: TCP, UDP or SCTP",
        ),
        (["matrix", "--manifests", ".", "--by", "pod"], "flag --by: invalid value 'pod'"),
        (["diff", "."], "OLD and NEW are required"),
        (["diff", "-o", "json", ".", "."], "OLD and NEW are required"),
        (["diff", ".", "nowhere"], "NEW 'nowhere': No such file or directory"),
        (["diff", ".", ".", "."], "argument '.' is not expected here"),
        (
            ["diff", ".", ".", "--since", "1h", "--flows", "-"],
            "flag --since: '1h' cannot be combined with --flows; allowed: one of the two",
        ),
        (["diff", ".", ".", "--since", "2h"], "flag --since: invalid value '2h'; allowed: a number and s, m or h"),
        (
            ["diff", ".", ".", "--since", "1h", "--node", "a"],
            "flag --node: is for the agents of a cluster; give --since and --kubeconfig",
        ),
        (
            ["diff", ".", ".", "--kubeconfig", "f", "--timeout", "1s"],
            "flag --timeout: is for the agents of a cluster; give --since and",
        ),
        (["diff", ".", ".", "--since", "1h", "--context", "c"], "flag --context: 'c' needs --since and --kubeconfig FILE"),
        (["diff", ".", ".", "--kubeconfig", "f"], "--kubeconfig: neither OLD nor NEW is cluster:"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, *words, expected=ExitCode.USAGE)
    assert part in err


def test_manifests_without_pods_are_an_error(manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Probably the folder is a wrong one."""
    empty = folder(tmp_path / "empty", DB)
    _, err = run(capsys, "matrix", "--manifests", empty, expected=ExitCode.FAILED)
    assert f"--manifests {str(empty)!r}: no pod owns an address" in err
    _, err = run(capsys, "diff", manifests, empty, expected=ExitCode.FAILED)
    assert f"NEW {str(empty)!r}: no pod" in err


@pytest.mark.parametrize(("bound", "part"), [("MAX_PAIRS", "too many pods"), ("MAX_EVALUATIONS", "more than 1 evaluations")])
def test_a_cluster_that_is_too_large_is_an_error(
    bound: str, part: str, manifests: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, bound, 1)
    _, err = run(capsys, "matrix", "--manifests", manifests, expected=ExitCode.FAILED)
    assert part in err


def deployment(kind: str = "Deployment", name: str = "api", app: str = "api", owner: str = "") -> str:
    version = {"Job": "batch/v1", "ReplicationController": "v1"}.get(kind, "apps/v1")
    owners = f", ownerReferences: [{{kind: Deployment, name: {owner}, controller: true}}]" if owner else ""
    template = f"{{metadata: {{labels: {{app: {app}}}}}, spec: {{containers: [{{ports: [{{name: http, containerPort: 80}}]}}]}}}}"
    metadata = f"{{name: {name}, namespace: shop{owners}}}"
    return f"{{apiVersion: {version}, kind: {kind}, metadata: {metadata}, spec: {{template: {template}}}}}"


OPEN_API = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec: {podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: http}], from: [{podSelector: {matchLabels: {app: web}}}]}]}
"""


def test_workloads_without_pods_are_rows_by_their_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that a controller has made, and those whose pods are there, are no rows of their own."""
    both = folder(
        tmp_path / "a",
        PODS,
        deployment(),
        deployment("ReplicaSet", "api-1", "api", "api"),
        deployment(app="web", name="w"),
        OPEN_API,
    )
    out, _ = run(capsys, "matrix", "--manifests", both)
    assert out.splitlines()[1:4] == [
        "1 shop/api  -       all  all  all",
        "2 shop/db   none    all  all  all",
        "3 shop/web  TCP 80  all  -    all",
    ]
    assert "240.0.0" not in run(capsys, "matrix", "--manifests", both, "-o", "json")[0]
    alone = folder(tmp_path / "b", *(deployment(kind, kind.lower()) for kind in ("Deployment", "Job", "StatefulSet")))
    out, _ = run(capsys, "matrix", "--manifests", alone)
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["shop/deployment", "shop/job", "shop/statefulset", "outside"]


def test_manifests_without_any_pod_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = folder(tmp_path / "old", deployment(), deployment(name="web", app="web"), deployment(name="x", app="x"))
    new = folder(tmp_path / "new", deployment(), deployment(name="web", app="web"), deployment(name="x", app="x"), OPEN_API)
    out, _ = run(capsys, "diff", old, new, expected=ExitCode.UNEXPECTED)
    assert "shop/x -> shop/api: TCP; UDP; SCTP; other protocols: all -> none" in out
    assert "shop/web -> shop/api: TCP 1-79, 81-65535; UDP; SCTP; other protocols: all -> none" in out
    document = json.loads(run(capsys, "diff", old, new, "-o", "json", expected=ExitCode.UNEXPECTED)[0])
    sources = [change["old"]["example"]["source"] for change in document["changes"] if change["source"] == "shop/x"]
    assert sources == [{"address": None, "pod": "shop/x (template of the deployment)"}]
    assert document["pods"] == {"added": [], "removed": []}


def test_changes_and_policies_are_applied_to_the_old_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = folder(tmp_path / "old", PODS, DB)
    new = folder(tmp_path / "new", OPEN_API.replace("app: api", "app: web").replace("name: api", "name: web"))
    _, err = run(capsys, "diff", old, new, expected=ExitCode.FAILED)
    assert "if NEW is to be applied to OLD, give --new-has changes or --new-has policies" in err
    changes, _ = run(capsys, "diff", old, new, "--new-has", "changes", expected=ExitCode.UNEXPECTED)
    policies, _ = run(capsys, "diff", old, new, "--new-has", "policies", expected=ExitCode.UNEXPECTED)
    closed = "shop/db -> shop/web: TCP; UDP; SCTP; other protocols: all -> none"
    assert closed in changes
    assert closed in policies
    assert "-> shop/db:" not in changes
    assert "-> shop/db:" in policies, "the policy of the database is gone"
    for printed in (changes, policies):
        assert "removed" not in printed
    same, _ = run(capsys, "diff", old, folder(tmp_path / "same", DB), "--new-has", "policies")
    assert same == "no connection changes\n"


def test_new_policies_replace_those_of_their_namespaces_and_tiers_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = (
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: x, namespace: other}, spec: {podSelector: {}}}"
    )
    base = """{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: base}, spec: {tier: Baseline,
        priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}"""
    old = folder(tmp_path / "old", PODS, DB, base)
    kept, _ = run(capsys, "diff", old, folder(tmp_path / "a", other), "--new-has", "policies")
    assert kept == "no connection changes\n"
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"
    removed, _ = run(
        capsys, "diff", old, folder(tmp_path / "b", namespace), "--new-has", "policies", expected=ExitCode.UNEXPECTED
    )
    assert "-> shop/db: " in removed
    without = base.replace("Deny", "Accept")
    opened, _ = run(capsys, "diff", old, folder(tmp_path / "c", without), "--new-has", "policies", expected=ExitCode.UNEXPECTED)
    assert "shop/db -> shop/web: TCP; UDP; SCTP; other protocols: none -> all" in opened
