import io
import json
import subprocess
import sys

from pathlib import Path
from typing import TypedDict

import pytest
import yaml

from loadtest.testbed.manifests import policy, rules_with_large_tables
from netpolq import explain
from netpolq.errors import ExitCode, NetpolqError, SettingsError
from netpolq.explain.batch import MAX_LINE_BYTES, answer_stream
from netpolq.explain.flow import parse_port, parse_protocol
from netpolq.explain.manifests import reader
from netpolq.policy.reference import ReferenceEvaluator
from tests.support.cases import load_cases
from tests.support.clusters import store_of
from tests.support.random_selectors import Body

EVERYTHING_OPEN = next(case for case in load_cases() if not any("Policy" in str(body["kind"]) for body in case.manifests))

POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: b-deny}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: c-web}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress:
    - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
    - from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]
      ports: [{port: serve-80-tcp}]
"""


Z_A = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "z"}}, "podSelector": {"matchLabels": {"pod": "a"}}}
"""The peer of a policy in namespace x that is pod z/a."""


NAMED = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: updates}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {ns: "y"}}}
  egress:
    - name: mirrors
      action: Accept
      to: [{domainNames: [deb.debian.org, "*.ubuntu.com"]}]
      protocols: [{tcp: {destinationPort: {number: 443}}}]
    - {action: Accept, to: [{domainNames: [a.example, b.example, c.example, d.example, e.example, f.example]}]}
    - {name: rest, action: Deny, to: [{networks: [0.0.0.0/0]}]}
    - {action: Accept, to: [{domainNames: [late.example]}]}
"""


class Flags(TypedDict, total=False):
    source: str | None
    destination: str | None
    protocol: str
    port: int | str | None
    packets: str | None
    evaluator: str
    output: str
    expect: str | None
    names: str


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "cluster.json").write_text(EVERYTHING_OPEN.manifest())
    (folder / "policies.yaml").write_text(POLICIES)
    return folder


def add_pod(folder: Path, name: str, spec: Body, status: Body) -> None:
    metadata = {"namespace": "y", "name": name, "labels": {"pod": name}}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [], **spec}, "status": status}
    (folder / f"{name}.json").write_text(json.dumps(body))


def run(folder: Path, **flags: object) -> int:
    given: Flags = {"source": None, "destination": None, "protocol": "TCP", "port": None, "packets": None}
    chosen: Flags = {"evaluator": "snapshot", "output": "text"}
    if isinstance(flags.get("port"), int):
        flags["port"] = str(flags["port"])
    return explain.run(read=reader(folder), **{**given, **chosen, **flags})  # type: ignore[arg-type]  # flags are wrong on purpose


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
def test_text_names_the_isolating_policies_and_the_rule_that_allows(
    manifests: Path, capsys: pytest.CaptureFixture[str], evaluator: str
) -> None:
    assert run(manifests, source="y/b", destination="x/a", port=80, evaluator=evaluator) == 0
    assert capsys.readouterr().out.splitlines() == [
        "verdict      accept, allowed: every isolated endpoint allows it",
        "source       10.77.2.2 (pod y/b)",
        "destination  10.77.1.1 (pod x/a), TCP port 80",
        "egress       not isolated",
        "ingress      isolated by x/b-deny, x/c-web; allowed by x/c-web, spec.ingress[1]",
    ]


@pytest.fixture
def named(manifests: Path) -> Path:
    (manifests / "named.yaml").write_text(NAMED)
    return manifests


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
def test_text_says_which_rules_would_allow_a_destination_by_its_name(
    named: Path, capsys: pytest.CaptureFixture[str], evaluator: str
) -> None:
    assert run(named, source="y/a", destination="192.0.2.7", port=443, evaluator=evaluator) == 0
    assert capsys.readouterr().out.splitlines() == [
        "verdict      drop, denied: egress denied by admin updates, spec.egress[2] (rest)",
        "source       10.77.2.1 (pod y/a)",
        "destination  192.0.2.7 (no pod), TCP port 443",
        "egress       denied by admin updates, spec.egress[2] (rest)",
        "             admin updates, spec.egress[0] (mirrors) allows it if deb.debian.org or *.ubuntu.com resolves to 192.0.2.7",
        "             admin updates, spec.egress[1] allows it if a.example or b.example or c.example or d.example or 2 more names "
        "resolves to 192.0.2.7",
        "ingress      not isolated",
    ]


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
def test_text_names_the_pattern_and_the_name_by_which_a_rule_allows(
    named: Path, capsys: pytest.CaptureFixture[str], evaluator: str
) -> None:
    names = "Deb.Debian.org.=192.0.2.7,x.y.ubuntu.com=192.0.2.7,other.example=192.0.2.7,a.example=192.0.2.8"
    assert run(named, source="y/a", destination="192.0.2.7", port=443, evaluator=evaluator, names=names) == 0
    assert capsys.readouterr().out.splitlines()[3:] == [
        "egress       allowed by admin updates, spec.egress[0] (mirrors)",
        "             *.ubuntu.com matches x.y.ubuntu.com, a name of 192.0.2.7",
        "             deb.debian.org matches deb.debian.org, a name of 192.0.2.7",
        "ingress      not isolated",
    ]


def test_json_has_the_names_by_which_a_rule_allows_or_would_allow(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def egress(**flags: object) -> dict[str, object]:
        assert run(named, source="y/a", destination="192.0.2.7", output="json", **flags) == 0
        answer: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)
        return answer["egress"]

    matched = egress(port=443, names="deb.debian.org=192.0.2.7")
    assert matched["matched_names"] == [{"pattern": "deb.debian.org", "name": "deb.debian.org"}]
    assert "allowed_if_resolved" not in matched
    denied = egress(port=80)
    second = {"tier": "admin", "policy": "updates", "rule": 1, "rule_name": None, "action": "accept"}
    assert denied["allowed_if_resolved"] == [second | {"domain_names": [f"{letter}.example" for letter in "abcdef"]}]
    assert "matched_names" not in denied


@pytest.mark.parametrize(
    "text",
    ["example.com", "=192.0.2.1", "example.com=", "example.com=192.0.2", "*.example.com=192.0.2.1", "bücher.example=::1", ","],
)
def test_a_name_that_cannot_be_read_is_refused(named: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--name: .* must be NAME=ADDRESS"):
        run(named, source="y/a", destination="192.0.2.7", port=443, names=f"a.example=::1,{text}")


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
def test_text_says_that_no_rule_allows(manifests: Path, capsys: pytest.CaptureFixture[str], evaluator: str) -> None:
    assert run(manifests, source="x/a", destination="2001:db8::7", protocol="icmpv6", evaluator=evaluator) == 0
    assert capsys.readouterr().out.splitlines() == [
        "verdict      drop, denied: egress is isolated by x/b-deny and nothing allows it",
        "source       fd77::1:1 (pod x/a)",
        "destination  2001:db8::7 (no pod), ICMPv6",
        "egress       isolated by x/b-deny; no rule allows it",
        "             x/b-deny: spec.egress has no rules, so the policy allows nothing in this direction",
        '             to allow it: add {"to":[{"ipBlock":{"cidr":"2001:db8::7/128"}}]} to spec.egress of x/b-deny',
        "ingress      not isolated",
    ]


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
def test_json_has_the_same_facts_as_one_object(manifests: Path, capsys: pytest.CaptureFixture[str], evaluator: str) -> None:
    assert run(manifests, source="10.77.3.1", destination="x/a", port=80, evaluator=evaluator, output="json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "verdict": "drop",
        "direction": "ingress",
        "tier": "network-policy",
        "policy": "x/b-deny",
        "reason": "denied",
        "source": {"address": "10.77.3.1", "pod": "z/a", "nodes": []},
        "destination": {"address": "10.77.1.1", "pod": "x/a", "nodes": []},
        "protocol": "TCP",
        "port": 80,
        "egress": {"isolated_by": [], "allowed_by": None, "rule": None, "decision": None, "passes": [], "near_misses": []},
        "ingress": {
            "isolated_by": ["x/b-deny", "x/c-web"],
            "allowed_by": None,
            "rule": None,
            "decision": {"isolated_by": ["x/b-deny", "x/c-web"]},
            "passes": [],
            "near_misses": [
                {
                    "policy": "x/b-deny",
                    "failed": "no-rules",
                    "rule": None,
                    "why": "spec.ingress has no rules, so the policy allows nothing in this direction",
                    "add": {"item": {"from": [Z_A], "ports": [{"protocol": "TCP", "port": 80}]}, "to": "spec.ingress"},
                },
                {
                    "policy": "x/c-web",
                    "failed": "peer",
                    "rule": 1,
                    "why": "spec.ingress[1]: peer: namespace z has ns=z, namespaceSelector wants ns=y",
                    "add": {"item": Z_A, "to": "spec.ingress[1].from"},
                },
            ],
        },
    }


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
def test_the_node_is_named_and_reaches_its_pod(manifests: Path, capsys: pytest.CaptureFixture[str], evaluator: str) -> None:
    run(manifests, source="10.77.0.1", destination="x/a", port=81, evaluator=evaluator)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "verdict      accept, own-node: a node can always reach its own pods",
        "source       10.77.0.1 (node node-1)",
    ]


def test_pod_names_resolve_to_a_family_that_both_endpoints_have(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_pod(manifests, "six", {}, {"phase": "Running", "podIP": "fd77::9:9"})
    run(manifests, source="x/b", destination="y/six", port=80)
    assert "source       fd77::1:2 (pod x/b)" in capsys.readouterr().out.splitlines()


def test_a_host_network_pod_has_its_nodes_address(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_pod(manifests, "host", {"hostNetwork": True}, {"phase": "Running", "podIP": "10.9.9.9", "hostIP": "10.9.9.9"})
    run(manifests, source="y/host", destination="x/a", port=80)
    assert "source       10.9.9.9 (no pod)" in capsys.readouterr().out.splitlines()


def test_what_cannot_be_used_is_reported_and_the_question_answered(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifests / "broken.yaml").write_text(POLICIES.replace("c-web", "d-web").replace("192.0.2.0/24", "192.0.2.0/99"))
    assert run(manifests, source="y/b", destination="x/a", port=80) == 0
    written = capsys.readouterr()
    assert "broken.yaml" in written.err
    assert "cidr" in written.err
    assert "x/d-web" in written.out


def test_every_error_of_an_object_has_a_line_and_is_in_the_json_answer(
    manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line names file, document, object and field; the last one states what is in force instead."""
    broken = POLICIES.replace("c-web", "d-web").replace("192.0.2.0/24", "192.0.2.0/99").replace("ports:", "Ports:")
    (manifests / "broken.yaml").write_text(broken)
    cidr = "must be a CIDR such as 10.0.0.0/8 or 2001:db8::/64, not '192.0.2.0/99'"
    ports = "spec.ingress[1].Ports: unknown field; did you mean ports?"
    consequence = "isolates the pods it selects (Ingress) and admits nothing"
    written = capsys.readouterr()
    for output in ("text", "json"):
        assert run(manifests, source="y/b", destination="x/a", port=80, output=output) == 0
        written = capsys.readouterr()
        lines = [line for line in written.err.splitlines() if "x/d-web" in line]
        assert lines == [
            f"broken.yaml document 2: NetworkPolicy x/d-web: spec.ingress[0].from[0].ipBlock.cidr: {cidr}",
            f"broken.yaml document 2: NetworkPolicy x/d-web: {ports} ({consequence})",
        ]
    (rejected,) = (one for one in json.loads(written.out)["rejected"] if one["key"] == "NetworkPolicy x/d-web")
    assert rejected == {
        "origin": "broken.yaml",
        "document": 2,
        "key": "NetworkPolicy x/d-web",
        "field": "spec.ingress[0].from[0].ipBlock.cidr",
        "message": cidr,
        "consequence": consequence,
        "leaves_open": False,
        "further": [ports],
    }


def test_rules_with_large_tables_decide_as_they_are_written(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = policy("x/a-greedy", podSelector={"matchLabels": {"pod": "a"}}, ingress=rules_with_large_tables("from"))
    (manifests / "greedy.json").write_text(json.dumps(body))
    for port in (1999, 2000):
        assert run(manifests, source="192.0.2.1", destination="x/a", port=port) == 0
        written = capsys.readouterr()
        assert not written.err
        assert ("allowed by x/a-greedy" in written.out) is (port == 2000)


def test_reports_about_manifests_contain_no_terminal_control_sequences(
    manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifests / "\x1b[2Jnice\nline.yaml").write_text("[", encoding="utf-8")
    assert run(manifests, source="y/b", destination="x/a", port=80) == 0
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.isprintable()
    assert r"\x1b[2Jnice\nline.yaml" in complaint


@pytest.mark.parametrize(
    ("flags", "begins"),
    [
        ({"source": "10.0.0", "destination": "x/a", "port": 80}, "--src: '10.0.0' must"),
        ({"source": "x/a", "destination": "a/b/c", "port": 80}, "--dst: 'a/b/c' must"),
        ({"source": "x/a", "destination": "/b", "port": 80}, "--dst: '/b' must"),
        ({"source": "x/a", "port": 80}, "--dst: required"),
        ({"destination": "x/a", "port": 80}, "--src: required"),
        ({"source": "x/a", "destination": "x/b"}, "--port: required with TCP"),
        ({"source": "x/a", "destination": "x/b", "port": 65536}, "--port: 65536 must"),
        (
            {"source": "x/a", "destination": "x/b:80", "port": 80},
            "--dst: the port of 'x/b:80' cannot be combined with --port '80'",
        ),
        ({"source": "x/a", "destination": "x/b:65536"}, "--port: 65536 must"),
        ({"source": "x/a", "destination": "fd00::1]:80"}, "--dst: 'fd00::1]:80' must"),
        ({"source": "x/a", "destination": "[10.0.0.1]:80"}, "--dst: '[10.0.0.1]:80' must"),
        ({"source": "x/a", "destination": "[x/b]:80"}, "--dst: '[x/b]:80' must"),
        ({"source": "x/a", "destination": "x/b:80", "expect": "drop"}, "--expect: 'drop' must be one of allow, deny"),
        ({"source": "x/a", "destination": "x/b", "protocol": "TPC", "port": 80}, "--protocol: 'TPC' must"),
        ({"source": "x/a", "destination": "x/b", "protocol": "256"}, "--protocol: '256' must"),
        ({"source": "10.0.0.1", "destination": "::1", "port": 80}, "--dst: has no address of the same family"),
        ({"source": "x/a", "packets": "-"}, "--packets cannot be combined with --src"),
        ({"packets": "-", "evaluator": "guess"}, "--engine: 'guess' must be one of snapshot, reference"),
        ({"packets": "-", "output": "xml"}, "--output: 'xml' must be one of text, json"),
    ],
)
def test_a_malformed_flag_is_a_usage_error_that_names_it(manifests: Path, flags: Flags, begins: str) -> None:
    with pytest.raises(SettingsError) as caught:
        run(manifests, **flags)
    assert str(caught.value).startswith(begins)


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("y/absent", "pod y/absent does not exist"),
        ("y/done", "has completed"),
        ("y/waiting", "has no address"),
        ("y/six", "same family"),
    ],
)
def test_a_pod_without_an_address_is_an_error_that_names_the_flag(manifests: Path, destination: str, message: str) -> None:
    add_pod(manifests, "done", {}, {"phase": "Succeeded", "podIP": "10.9.9.9"})
    add_pod(manifests, "waiting", {}, {"phase": "Pending"})
    add_pod(manifests, "six", {}, {"phase": "Running", "podIP": "fd77::9:9"})
    with pytest.raises(NetpolqError, match=message) as caught:
        run(manifests, source="10.0.0.1", destination=destination, port=80)
    assert str(caught.value).startswith("--dst: ")
    assert caught.value.exit_code == ExitCode.FAILED


# --- how ends, ports and manifests may be written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("y/b", "x/a:80"),
        ("y/b", "x/a:serve-80-tcp"),
        ("10.77.2.2:40123", "10.77.1.1:80"),
        ("fd77::2:2", "[fd77::1:1]:80"),
        ("[fd77::2:2]:40123", "[fd77::1:1]:serve-80-tcp"),
    ],
)
def test_an_endpoint_may_have_a_port_and_brackets(
    manifests: Path, capsys: pytest.CaptureFixture[str], source: str, destination: str
) -> None:
    """Logs and other programs write endpoints in these forms. The port of the source is ignored."""
    assert run(manifests, source=source, destination=destination, expect="allow") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("(pod y/b)")
    assert lines[2].endswith("(pod x/a), TCP port 80")


def test_brackets_without_a_port_are_accepted(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(manifests, source="[fd77::2:2]", destination="[fd77::1:1]", port="serve-80-tcp") == 0
    assert "fd77::1:1 (pod x/a), TCP port 80" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"destination": "x/a", "port": "web"},
            "--port: pod x/a has no TCP port named 'web'; its named ports: serve-80-tcp (TCP 80)",
        ),
        (
            {"destination": "x/a", "protocol": "UDP", "port": "serve-80-tcp"},
            "--port: pod x/a has no UDP port named 'serve-80-tcp'",
        ),
        (
            {"destination": "192.0.2.1", "port": "http"},
            "--port: port name 'http' cannot be resolved: no pod owns 192.0.2.1; give a number",
        ),
        ({"destination": "x/a", "port": "080"}, "--port: pod x/a has no TCP port named '080'"),
        ({"destination": "y/twice", "port": "web"}, "--port: port name 'web' is ambiguous: 80, 81 at pod y/twice; give a number"),
        ({"destination": "y/plain", "port": "web"}, "--port: pod y/plain has no TCP port named 'web'; its named ports: none"),
    ],
)
def test_a_port_name_must_resolve_to_one_port_of_the_destination(manifests: Path, flags: Flags, message: str) -> None:
    ports = [{"name": "web", "containerPort": 80}, {"name": "web", "containerPort": 81}]
    add_pod(manifests, "twice", {"containers": [{"name": "c", "ports": ports}]}, {"phase": "Running", "podIP": "10.9.9.8"})
    add_pod(manifests, "plain", {}, {"phase": "Running", "podIP": "10.9.9.9"})
    with pytest.raises(NetpolqError) as caught:
        run(manifests, source="10.77.2.2", **flags)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["all.yaml", "all.txt", ".hidden", "all"])
def test_manifests_may_be_one_file_of_any_name(
    manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / name
    texts = [(manifests / "policies.yaml").read_text(), *map(json.dumps, EVERYTHING_OPEN.manifests)]
    file.write_text("\n---\n".join(texts))
    assert run(file, source="y/b", destination="x/a", port=80) == 0
    written = capsys.readouterr()
    assert written.err == ""
    assert "allowed by x/c-web, spec.ingress[1]" in written.out


# --- what was expected ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "expect", "code"),
    [(80, "allow", 0), (80, "deny", 8), (81, "deny", 0), (81, "allow", 8), (80, None, 0), (81, None, 0)],
)
def test_another_verdict_than_the_expected_one_has_its_own_exit_code(
    manifests: Path, capsys: pytest.CaptureFixture[str], port: int, expect: str | None, code: int
) -> None:
    """The command still prints the answer."""
    assert run(manifests, source="y/b", destination="x/a", port=port, expect=expect) == code
    assert capsys.readouterr().out.startswith("verdict ")


@pytest.mark.parametrize(
    ("ports", "expect", "bad", "code"),
    [
        ((80, 80), "allow", False, 0),
        ((80, 81), "allow", False, 8),
        ((81, 80), "deny", False, 8),
        ((81, 81), "deny", False, 0),
        ((80, 81), "allow", True, 1),
        ((80, 81), None, False, 0),
    ],
)
def test_a_batch_is_compared_with_the_expected_verdict_line_by_line(
    manifests: Path, tmp_path: Path, ports: tuple[int, ...], expect: str | None, bad: bool, code: int
) -> None:
    questions = tmp_path / "questions"
    questions.write_bytes(b"".join(line(dport=port) for port in ports) + (b"nonsense\n" if bad else b""))
    assert run(manifests, packets=str(questions), expect=expect) == code


# --- batches ----------------------------------------------------------------------------------------------------------------------


def ask(lines: bytes, *, chunk_bytes: int = 1 << 16) -> tuple[ExitCode, list[dict[str, object]]]:
    """Answers of the reference evaluator to lines that arrive in chunks of a size."""

    class Trickle(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read(chunk_bytes if size is None or size < 0 else min(size, chunk_bytes))

    store = store_of([*EVERYTHING_OPEN.manifests, *yaml.safe_load_all(POLICIES)])
    output = io.BytesIO()
    code = answer_stream(ReferenceEvaluator(store), store, Trickle(lines), output)
    return code, [json.loads(line) for line in output.getvalue().splitlines()]


def line(**fields: object) -> bytes:
    return (
        json.dumps({"src": "10.77.2.2", "dst": "10.77.1.1", "proto": "TCP", "sport": 1234, "dport": 80} | fields).encode() + b"\n"
    )


def test_a_line_is_answered_with_verdict_direction_policy_and_rule() -> None:
    code, answers = ask(line() + line(dport=81) + line(src="10.77.1.1", dst="10.77.2.2") + line(src="10.77.3.1", dst="10.77.2.2"))
    none = {"allowed_by": None, "rule": None}
    assert code is ExitCode.OK
    repeated = [{name: answer.pop(name) for name in ("src", "dst", "proto", "dport")} for answer in answers]
    ends = [("10.77.2.2", "10.77.1.1")] * 2 + [("10.77.1.1", "10.77.2.2"), ("10.77.3.1", "10.77.2.2")]
    ports = (80, 81, 80, 80)
    assert repeated == [
        {"src": source, "dst": destination, "proto": "TCP", "dport": port}
        for (source, destination), port in zip(ends, ports, strict=True)
    ]
    assert answers == [
        {
            "verdict": "accept",
            "direction": None,
            "tier": None,
            "policy": None,
            "reason": "allowed",
            "egress": None,
            "ingress": {"allowed_by": "x/c-web", "rule": 1},
        },
        {
            "verdict": "drop",
            "direction": "ingress",
            "tier": "network-policy",
            "policy": "x/b-deny",
            "reason": "denied",
            "egress": None,
            "ingress": none,
        },
        {
            "verdict": "drop",
            "direction": "egress",
            "tier": "network-policy",
            "policy": "x/b-deny",
            "reason": "denied",
            "egress": none,
            "ingress": None,
        },
        {
            "verdict": "accept",
            "direction": None,
            "tier": None,
            "policy": None,
            "reason": "not-isolated",
            "egress": None,
            "ingress": None,
        },
    ]


@pytest.mark.parametrize("proto", ["tcp", "Tcp", 6, "6"])
def test_protocols_are_names_in_any_case_or_numbers(proto: object) -> None:
    assert ask(line(proto=proto))[1] == ask(line())[1]


def test_a_destination_port_is_ignored_where_the_protocol_has_none() -> None:
    plain = ask(b'{"src": "10.77.2.2", "dst": "10.77.1.1", "proto": "ICMP"}\n')
    assert plain[0] is ExitCode.OK
    assert ask(line(proto="ICMP", dport=80)) == plain
    assert ask(line(proto=1, dport="nonsense")) == plain


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (b"\n", "not JSON"),
        (b"{\n", "not JSON"),
        (b"\xff\n", "not JSON"),
        (b"[" * 5000 + b"\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "src: missing"),
        (line(dst=None), "dst: must be an IP address"),
        (line(dst=17), "dst: must be an IP address"),
        (line(dst="10.77.1.01"), "dst: must be an IP address"),
        (line(src="fe80::1%eth0"), "src: must be an IP address"),
        (line(src="fd77::2:2"), "src and dst are of different address families"),
        (line(proto="TPC"), "proto: must be"),
        (line(proto=True), "proto: must be"),
        (line(proto=256), "proto: must be"),
        (line(proto=-1), "proto: must be"),
        (line(proto=6.0), "proto: must be"),
        (b'{"src": "10.77.2.2", "dst": "10.77.1.1", "proto": "UDP"}\n', "dport: missing"),
        (line(dport=None), "dport: required with TCP"),
        (line(dport=65536), "dport: must be a number from 0 to 65535"),
        (line(dport=-1), "dport: must be"),
        (line(dport="80"), "dport: must be"),
        (line(dport=True), "dport: must be"),
        (line(padding="x" * MAX_LINE_BYTES), "longer than"),
        (line(padding="x" * 5 * MAX_LINE_BYTES), "longer than"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [7, 1 << 16])
def test_a_bad_line_has_an_answer_in_order_and_so_have_the_others(bad: bytes, error: str, chunk_bytes: int) -> None:
    code, answers = ask(line() + bad + line(), chunk_bytes=chunk_bytes)
    assert code is ExitCode.FAILED
    assert answers[0] == answers[2] == ask(line())[1][0]
    assert answers[1].keys() == {"error", "line"}
    assert str(answers[1]["error"]).startswith(error)
    assert answers[1]["line"] == 2
    assert len(answers) == 3


def test_a_line_may_contain_a_port_name_of_the_destination_pod() -> None:
    """The answer is the same as for the port number, and repeats both."""
    code, (named, plain) = ask(line(dport="serve-80-tcp") + line())
    assert code is ExitCode.OK
    assert (named["dport"], named.pop("dport_name")) == (80, "serve-80-tcp")
    assert named == plain


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"dport": "web"}, "dport: pod x/a has no TCP port named 'web'; its named ports: serve-80-tcp (TCP 80), "),
        ({"dport": "serve-80-tcp", "proto": "UDP"}, "dport: pod x/a has no UDP port named 'serve-80-tcp'; its named ports: "),
        (
            {"dport": "http", "dst": "192.0.2.1"},
            "dport: port name 'http' cannot be resolved: no pod owns 192.0.2.1; give a number",
        ),
        ({"dport": " 80"}, "dport: pod x/a has no TCP port named ' 80'"),
        ({"dport": "80"}, "dport: must be a number from 0 to 65535 without quotes, or the name of a port of the destination pod"),
        ({"dport": ""}, "dport: must be a number from 0 to 65535 without quotes, or the name of a port of the destination pod"),
        ({"dport": ["http"]}, "dport: must be a number from 0 to 65535"),
    ],
)
def test_a_port_name_of_a_line_must_resolve_to_one_port(fields: Body, error: str) -> None:
    code, (answer, good) = ask(line(**fields) + line(dport="serve-80-tcp"))
    assert code is ExitCode.FAILED
    assert str(answer["error"]).startswith(error.removesuffix(", "))
    assert (answer["line"], good["verdict"]) == (1, "accept")


def test_a_port_name_is_ignored_where_the_protocol_has_none() -> None:
    assert ask(line(proto="ICMP", dport="web")) == ask(line(proto="ICMP", dport=None))


def test_the_same_name_may_be_another_number_at_another_pod() -> None:
    """A cached answer for one pod is not used for the other."""
    bodies: list[dict[str, object]] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "x", "name": f"p{number}"},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8000 + number}]}]},
            "status": {"phase": "Running", "podIP": f"10.0.0.{number}"},
        }
        for number in (1, 2)
    ]
    store = store_of(bodies)
    output = io.BytesIO()
    questions = b"".join(line(dst=f"10.0.0.{number}", dport="web") for number in (1, 2, 1))
    answer_stream(ReferenceEvaluator(store), store, io.BytesIO(questions), output)
    assert [json.loads(text)["dport"] for text in output.getvalue().splitlines()] == [8001, 8002, 8001]


def test_the_last_line_needs_no_newline() -> None:
    assert ask(line() + line().rstrip()) == ask(line() + line())
    assert [answer.get("line") for answer in ask(line() + b"x" * 2 * MAX_LINE_BYTES)[1]] == [None, 2]


def test_no_lines_are_no_answers() -> None:
    assert ask(b"") == (ExitCode.OK, [])


def test_many_lines_are_answered_in_order() -> None:
    ports = [80 if number % 3 else 81 for number in range(5000)]
    _code, answers = ask(b"".join(line(dport=port) for port in ports), chunk_bytes=1000)
    assert [answer["verdict"] for answer in answers] == ["accept" if port == 80 else "drop" for port in ports]


def test_a_flow_asked_again_is_not_mistaken_for_a_similar_one() -> None:
    once = line() + line(proto="UDP") + line(src="10.77.3.2") + line(dst="10.77.1.2") + line(proto=1)
    _code, answers = ask(once + once)
    assert answers[:5] == answers[5:]
    assert [answer["verdict"] for answer in answers[:5]] == ["accept", "drop", "drop", "accept", "drop"]


BATCH = "import sys; from pathlib import Path; from netpolq.explain import run; from netpolq.explain.manifests import reader; "
BATCH += "sys.exit(run(read=reader(Path(sys.argv[1])), "
BATCH += "source=None, destination=None, protocol='TCP', port=None, packets='-', evaluator='snapshot', output='text'))"


def test_a_line_on_standard_input_is_answered_before_the_next_one_is_there(manifests: Path) -> None:
    command = [sys.executable, "-c", BATCH, str(manifests)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for port, verdict in ((80, "accept"), (81, "drop")):
            process.stdin.write(line(dport=port))
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["verdict"] == verdict
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_a_closed_pipe_ends_the_batch_quietly(manifests: Path) -> None:
    command = [sys.executable, "-c", BATCH, str(manifests)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(line())
        process.stdin.close()
        assert (process.stderr.read(), process.wait(timeout=30)) == (b"", ExitCode.FAILED)


def test_a_file_that_cannot_be_read_is_an_error_that_names_the_flag(manifests: Path) -> None:
    with pytest.raises(NetpolqError, match=r"^--packets: .*nowhere: No such file"):
        run(manifests, packets=str(manifests / "nowhere"))


# --- parts ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "+6", " 6", "6 ", "٦", "0x6", "1000", "icmp6"])
def test_other_spellings_of_a_protocol_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be TCP"):
        parse_protocol(text)


def test_a_port_is_0_where_the_protocol_has_none() -> None:
    assert parse_port(1, 80) == parse_port(58, None) == 0
    assert parse_port(132, 65535) == 65535
