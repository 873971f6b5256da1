"""The `netpolq` command, run as a real process where its exit, its streams or what it executes matter."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

from pathlib import Path

import pytest

from netpolq import cli
from netpolq.errors import ExitCode
from netpolq.ipc import settings_document
from netpolq.settings import resolve
from netpolq.settings.command_flags import (
    CLEANUP_OPTIONS,
    FLOWS_OPTIONS,
    NAMES_OPTIONS,
    PODS_OPTIONS,
    STATUS_OPTIONS,
    SUPPORT_BUNDLE_OPTIONS,
)
from netpolq.settings.definitions import OPTIONS
from netpolq.settings.options import from_argv
from tests.support.seen_flows import line as flow_line
from tests.support.seen_flows import pod as flow_pod

FULL = Path("/dev/full")

FAKE_POOL = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "environ": dict(os.environ), "path": sys.path}))
"""

WEB = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""


def netpolq(
    *arguments: str, environ: dict[str, str] | None = None, stdin: str = "", cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    clean = {name: text for name, text in os.environ.items() if not name.startswith("NETPOLQ_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "netpolq", *arguments],
        env={**clean, **(environ or {})},
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "web.yaml").write_text(WEB)
    return folder


@pytest.fixture
def fake_pool(tmp_path: Path) -> dict[str, str]:
    """An environment in which the pool's module is one that prints how it was started."""
    package = tmp_path / "fake" / "netpolq_worker"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE_POOL)
    return {"PYTHONPATH": str(package.parent)}


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("netpolq: error: ")
    return line


def test_without_arguments_the_usage_goes_to_standard_error_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: netpolq COMMAND")


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["start", "--v=3"]) == ExitCode.USAGE
    line = one_error_line(capsys)
    assert "'start'" in line
    assert (
        "run, status, pods, names, flows, ui, loglevel, support-bundle, cleanup, hold, explain, matrix, diff, recommend, config, "
        "completion, man, version, help" in line
    )


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "status",
        "pods",
        "names",
        "loglevel",
        "support-bundle",
        "cleanup",
        "hold",
        "explain",
        "matrix",
        "diff",
        "config",
        "completion",
        "man",
        "version",
        "help",
    ],
)
def test_help_with_a_command_is_the_commands_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", command]) == ExitCode.OK
    page = capsys.readouterr().out
    assert page.startswith(f"usage: netpolq {command}")
    for flag in ("--help", "-h", "-help"):
        assert cli.main([command, flag]) == ExitCode.OK
        assert capsys.readouterr().out == page


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"]])
def test_the_list_of_commands_leaves_out_the_internal_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.OK
    page = capsys.readouterr().out
    assert "  explain " in page
    assert "supervise" not in page


@pytest.mark.parametrize("arguments", [["help", "stop"], ["help", "run", "more"], ["version", "now"], ["version", "--v=1"]])
def test_unexpected_arguments_are_rejected(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.USAGE
    assert repr(arguments[-1].partition("=")[0]) in one_error_line(capsys)


def test_help_of_run_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["help", "run"])
    codes = capsys.readouterr().out.partition("Exit codes:\n")[2].partition("\n\n")[0]
    assert [int(line.split()[0]) for line in codes.splitlines()] == list(ExitCode)


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version_is_that_of_the_package(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.OK
    name, number = capsys.readouterr().out.split()
    assert name == "netpolq"
    assert number[0].isdigit()


def test_config_prints_the_sample_file_with_all_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The agent can read it, and it changes nothing."""
    assert cli.main(["config"]) == ExitCode.OK
    (tmp_path / "netpolq.toml").write_text(capsys.readouterr().out)
    assert resolve([f"--config={tmp_path / 'netpolq.toml'}"], {}) == resolve([], {})


def test_the_console_script_exits_with_the_code() -> None:
    script = Path(sys.executable).parent / "netpolq"
    assert subprocess.run([script, "nonsense"], capture_output=True, check=False, timeout=60).returncode == ExitCode.USAGE


def test_run_executes_the_pool_with_resolved_settings(fake_pool: dict[str, str], manifests: Path, tmp_path: Path) -> None:
    result = netpolq(
        *["run", "--manifests", str(manifests), "--queue-balance=7:9", "--no-fail-open", "--run-dir", str(tmp_path)],
        environ={**fake_pool, "NETPOLQ_MARK_MASK": "0x700", "NETPOLQ_V": "2"},
    )
    assert (result.returncode, result.stderr) == (0, "")
    (document,) = json.loads(result.stdout)["argv"]
    flags = [
        f"--manifests={manifests}",
        "--queue-balance=7:9",
        "--no-fail-open",
        f"--run-dir={tmp_path}",
        "--mark-mask=0x700",
        "--v=2",
    ]
    assert settings_document.decode(document) == resolve(flags, {})


def test_the_pool_inherits_the_environment_without_netpolq_variables(fake_pool: dict[str, str], manifests: Path) -> None:
    result = netpolq("run", environ={**fake_pool, "NETPOLQ_MANIFESTS": str(manifests), "NETPOLQ_SERVICE_HOST": "x", "KEPT": "1"})
    environ = json.loads(result.stdout)["environ"]
    assert environ["KEPT"] == "1"
    assert not [name for name in environ if name.startswith("NETPOLQ_")]


def test_the_pool_is_not_imported_from_the_working_directory(fake_pool: dict[str, str], manifests: Path, tmp_path: Path) -> None:
    """Otherwise, every user with write access to the directory could run code as root."""
    (tmp_path / "json.py").write_text("raise SystemExit('wrong module')")
    result = netpolq("run", "--manifests", str(manifests), environ=fake_pool, cwd=tmp_path)
    assert result.returncode == 0
    path = json.loads(result.stdout)["path"]
    assert "" not in path
    assert str(tmp_path) not in path


def test_kubeconfig_and_manifests_cannot_be_combined(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--kubeconfig=/etc/kubeconfig", "--manifests", str(manifests)]) == ExitCode.USAGE
    line = one_error_line(capsys)
    assert "--kubeconfig '/etc/kubeconfig'" in line
    assert "--manifests" in line


@pytest.mark.parametrize("command", ["run", "explain"])
def test_manifests_must_name_a_readable_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    # `explain` also takes a file.
    for name, reason in (("absent", "No such file"), *((("file", "Not a directory"),) if command == "run" else ())):
        assert cli.main([command, "--manifests", str(tmp_path / name)]) == ExitCode.USAGE
        line = one_error_line(capsys)
        assert reason in line
        assert str(tmp_path / name) in line


def test_a_wrong_value_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--workers=0"]) == ExitCode.USAGE
    assert one_error_line(capsys) == "netpolq: error: flag --workers: invalid value '0'; allowed: auto or 1 to 256"


def test_supervise_rejects_a_command_line_that_run_did_not_make() -> None:
    document = settings_document.encode(resolve(["--logging-format=json"], {}))
    for words, part in (
        (["--manifests=/"], "only `netpolq run`"),
        ([document], '"msg": "`netpolq supervise` is an internal command'),
    ):
        result = netpolq("supervise", *words)
        assert result.returncode == ExitCode.USAGE
        (line,) = result.stderr.splitlines()
        assert part in line


def test_the_pool_rejects_a_document_that_run_did_not_make(tmp_path: Path) -> None:
    """It names the field, and touches nothing."""
    document = json.loads(settings_document.encode(resolve([f"--run-dir={tmp_path}/run"], {})))
    for changed, part in (
        ({**document, "workers": 0}, "field 'workers': invalid value 0: must be from 1 to 256"),
        ({**document, "wrokers": 1}, "field 'wrokers': does not exist"),
    ):
        argv = [sys.executable, "-P", "-m", "netpolq_worker", json.dumps(changed)]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stderr) == (ExitCode.USAGE, f"netpolq: error: settings, {part}\n")
    assert not (tmp_path / "run").exists()


def test_status_without_an_agent_names_the_socket_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--run-dir", str(tmp_path)]) == ExitCode.FAILED
    assert str(tmp_path / "status.sock") in one_error_line(capsys)


def test_status_finds_the_run_directory_in_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETPOLQ_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("NETPOLQ_OUTPUT", "nonsense")  # no variable of netpolq
    assert cli.main(["status"]) == ExitCode.FAILED
    assert str(tmp_path / "status.sock") in one_error_line(capsys)


def test_status_refuses_flags_of_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--workers=2"]) == ExitCode.USAGE
    assert "'--workers' does not exist" in one_error_line(capsys)


def in_new_namespace(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a network namespace that ends with it."""
    return subprocess.run(
        ["unshare", "--net", sys.executable, "-P", "-m", "netpolq", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.netns
def test_cleanup_removes_what_an_agent_left_on_disk_and_nothing_else(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "metrics-100").mkdir(parents=True)
    for name in ("metrics-100/counter_0.db", "snapshot.bin", "snapshot.new", "keep.txt"):
        (run_dir / name).touch()
    with socket.socket(socket.AF_UNIX) as status:
        status.bind(str(run_dir / "status.sock"))
    result = in_new_namespace("cleanup", "--run-dir", str(run_dir))
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in run_dir.iterdir()] == ["keep.txt"]
    for name in ("metrics-100", "snapshot.bin", "snapshot.new", "status.sock"):
        assert f"removed {run_dir / name}\n" in result.stdout


@pytest.mark.netns
def test_cleanup_can_be_repeated_and_reports_that_nothing_was_left(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    assert in_new_namespace("cleanup", "--run-dir", str(run_dir)).stdout == f"removed {run_dir}\n"
    result = in_new_namespace("cleanup", "--run-dir", str(run_dir))
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing to remove\n", "")


@pytest.mark.netns
def test_cleanup_is_refused_while_an_agent_serves_the_namespace(tmp_path: Path) -> None:
    (tmp_path / "snapshot.bin").touch()
    agent_and_cleanup = (
        "import os, sys; from netpolq import cli; from netpolq.ipc import takeover; "
        "lock = takeover.acquire(); print(os.getpid(), flush=True); sys.exit(cli.main(sys.argv[1:]))"
    )
    result = subprocess.run(
        ["unshare", "--net", sys.executable, "-P", "-c", agent_and_cleanup, "cleanup", "--run-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == ExitCode.ALREADY_RUNNING
    (line,) = result.stderr.splitlines()
    assert f"(pid {result.stdout.strip()})" in line
    assert (tmp_path / "snapshot.bin").exists()


@pytest.mark.netns
def test_cleanup_does_not_follow_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").touch()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "metrics").symlink_to(target)
    (run_dir / "snapshot.bin").symlink_to(target / "file")
    result = in_new_namespace("cleanup", "--run-dir", str(run_dir))
    assert (result.returncode, result.stdout) == (0, f"removed {run_dir / 'snapshot.bin'}\n")
    assert (target / "file").exists()


@pytest.mark.netns
def test_cleanup_keeps_a_directory_that_no_agent_makes_and_reports_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "snapshot.bin").mkdir()
    result = in_new_namespace("cleanup", "--run-dir", str(tmp_path))
    assert result.returncode == ExitCode.FAILED
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "snapshot.bin") in line
    assert (tmp_path / "snapshot.bin").is_dir()


def test_explain_answers_a_question(manifests: Path) -> None:
    result = netpolq(
        *["explain", "--manifests", str(manifests), "--src=192.0.2.1", "--dst", "shop/web", "-port", "80", "--output=json"]
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["verdict"] == "drop"


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
def test_explain_answers_packets_from_standard_input(manifests: Path, evaluator: str) -> None:
    packet = '{"src": "192.0.2.1", "dst": "10.0.0.1", "proto": "TCP", "sport": 1, "dport": 80}\n'
    result = netpolq("explain", "--manifests", str(manifests), "--packets", "-", "--engine", evaluator, stdin=packet)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["policy"] == "shop/closed"


ALLOWLIST = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: allowlist}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
    - {action: Accept, to: [{domainNames: ["*.example.com"]}]}
    - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
"""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--packets=-", "--src=10.0.0.1"], "flag --src: '10.0.0.1' cannot be combined with --packets"),
        (["--packets=-", "--port=80"], "flag --port: '80' cannot be combined with --packets"),
        (["--src=10.0.0.1"], "--dst"),
        (["--dst=10.0.0.1"], "--src"),
        (["--src=10.0.0.1", "--dst=10.0.0.2", "--port=1", "--expect=drop"], "flag --expect: invalid value 'drop'"),
        (["--src=10.0.0.1", "--dst=10.0.0.2", "--port=1", "--protocol=TPC"], "TPC"),
        (["--src=10.0.0.1", "--dst=10.0.0.2", "--port=1", "--engine=fast"], "invalid value 'fast'"),
    ],
)
def test_explain_rejects_an_invalid_question(
    arguments: list[str], part: str, manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", "--manifests", str(manifests), *arguments]) == ExitCode.USAGE
    assert part in one_error_line(capsys)


def test_explain_takes_several_names_and_the_last_of_other_repeated_flags(
    manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifests / "names.yaml").write_text(ALLOWLIST)
    question = ["explain", "--manifests", str(manifests), "--src=shop/web", "--dst=10.0.0.9", "--dst=192.0.2.1:443", "-o=json"]
    for words, expected in (
        ([], "drop"),
        (["--name=a.example=192.0.2.1"], "drop"),
        (["--name=www.example.com=192.0.2.1", "--name", "a.example=192.0.2.1"], "accept"),
        (["--name=a.example=192.0.2.1,www.example.com=192.0.2.1", "--name=b.example=192.0.2.1"], "accept"),
    ):
        assert cli.main([*question, *words]) == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["verdict"] == expected
    assert cli.main([*question, "--name=www.example.com"]) == ExitCode.USAGE
    assert one_error_line(capsys).startswith("netpolq: error: --name: 'www.example.com' must be NAME=ADDRESS")


def test_the_letter_of_a_flag_stands_for_its_name(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` and `-o=json`, in `status` too. The error for an invalid value has the full name."""
    question = ["explain", "--manifests", str(manifests), "--src=192.0.2.1", "--dst=shop/web:80"]
    for words in (["-o", "json"], ["-o=json"], ["--output", "json"]):
        assert cli.main([*question, *words]) == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["verdict"] == "drop"
    assert cli.main(["status", "-o", "yaml"]) == ExitCode.USAGE
    assert one_error_line(capsys) == "netpolq: error: flag --output: invalid value 'yaml'; allowed: text or json"


def test_pods_without_an_agent_names_the_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["shop"], ["shop/web"]):
        assert cli.main(["pods", *words, "--run-dir", str(tmp_path)]) == ExitCode.FAILED
        assert str(tmp_path / "status.sock") in one_error_line(capsys)


@pytest.mark.parametrize("wanted", ["Shop", "shop/", "/web", "shop/web/x", "shop web", "shop/web_1", ""])
def test_pods_refuses_what_is_no_name(wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pods", wanted]) == ExitCode.USAGE
    assert "allowed: NAMESPACE or NAMESPACE/NAME" in one_error_line(capsys)


@pytest.mark.parametrize("words", [["11"], ["-1"], ["two"], ["2", "3"], ["2", "--v=3"]])
def test_loglevel_rejects_an_invalid_verbosity(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It does so without a connection to an agent."""
    assert cli.main(["loglevel", *words]) == ExitCode.USAGE
    assert repr(words[-1].partition("=")[0]) in one_error_line(capsys)


def test_loglevel_without_an_agent_names_the_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["3"]):
        assert cli.main(["loglevel", *words, "--run-dir", str(tmp_path)]) == ExitCode.FAILED
        assert str(tmp_path / "status.sock") in one_error_line(capsys)


def test_every_command_has_valid_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test runs the examples of the offline commands. The others need an agent or change the machine: of these it parses the flags."""
    (tmp_path / "manifests").mkdir()
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"containers": [{"name": "main", "ports": [{"name": "postgres", "containerPort": 5432}]}]},
            "status": {"phase": "Running", "podIP": address},
        }
        for namespace, name, address in (
            ("shop", "db", "10.0.0.2"),
            ("shop", "frontend", "10.0.0.3"),
            ("other", "pod", "10.0.0.4"),
        )
    ]
    text = "\n---\n".join([WEB, *map(json.dumps, pods)])
    (tmp_path / "manifests-new").mkdir()
    for path in ("manifests/all.yaml", "manifests-new/all.yaml", "policies.yaml", "policies-new.yaml"):
        (tmp_path / path).write_text(text)
    (tmp_path / "questions.jsonl").write_text('{"src": "10.0.0.3", "dst": "10.0.0.2", "proto": "TCP", "dport": 5432}\n')
    (tmp_path / "pods.json").write_text(json.dumps(pods[0]))
    (tmp_path / "flows.jsonl").write_text(flow_line(flow_pod("shop/frontend"), flow_pod("shop/db"), 5432))
    monkeypatch.chdir(tmp_path)
    options = {"run": OPTIONS, "status": STATUS_OPTIONS, "cleanup": CLEANUP_OPTIONS, "support-bundle": SUPPORT_BUNDLE_OPTIONS}
    for name, command in cli.COMMANDS.items():
        lines = [line for line in command.examples if not line.startswith("#")]
        if name == "hold":
            continue  # its help page is separate, and has its own examples
        assert bool(lines) == bool(command.summary), name
        cli.main(["help", name])
        page = capsys.readouterr().out
        for line in lines:
            assert f"  {line}\n" in page
            program, *words = shlex.split(re.split(" [>|] ", line)[0])
            assert (program, words[0]) == ("netpolq", name)
            if name in options:
                from_argv(options[name], words[1:])
            elif name == "names":
                from_argv(NAMES_OPTIONS, [word for word in words[1:] if "." not in word])
            elif name == "pods":
                from_argv(PODS_OPTIONS, [word for word in words[1:] if not word.startswith("shop")])
            elif name == "ui" or (name in {"explain", "matrix"} and "--manifests" not in words):
                from_argv(command.options, words[1:])
            elif name == "diff" and {"cluster:", "agent:"} & set(words):
                from_argv(command.options, words[3:])
            elif name == "flows":
                from_argv(FLOWS_OPTIONS, words[1:])
            elif name == "loglevel":
                assert set(words[1:]) <= {"0", "2"}
            else:
                assert cli.main(words) == ExitCode.OK, line
        capsys.readouterr()


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed_pipe:
        result = subprocess.run(
            [sys.executable, "-P", "-m", "netpolq", "help", "run"],
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")


def test_an_interrupt_ends_quietly(manifests: Path, tmp_path: Path) -> None:
    packets = tmp_path / "packets"
    os.mkfifo(packets)
    command = [sys.executable, "-P", "-m", "netpolq", "explain", "--manifests", str(manifests), "--packets", str(packets)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        packets.open("wb"),  # returns when the command has opened the other end; it waits for a line then
    ):
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (128 + signal.SIGINT, b"", b"")


@pytest.mark.parametrize(
    "arguments",
    [["version"], ["help"], ["help", "run"], ["explain", "--src=10.0.0.2", "--dst=shop/web", "--port=80"]],
    ids=" ".join,
)
def test_output_that_cannot_be_written_is_one_line_and_a_failure(arguments: list[str], manifests: Path) -> None:
    """The disk is full: the result of the command is lost."""
    if arguments[0] == "explain":
        arguments = [*arguments, f"--manifests={manifests}"]
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "netpolq", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.stderr == "netpolq: error: standard output: No space left on device\n"
    assert done.returncode == ExitCode.FAILED


def test_many_verdicts_that_cannot_be_written_are_one_line(manifests: Path) -> None:
    """The output exceeds the buffer, so that the error occurs while the command still runs."""
    question = json.dumps({"src": "10.0.0.2", "dst": "10.0.0.1", "proto": "TCP", "dport": 80}) + "\n"
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "netpolq", "explain", f"--manifests={manifests}", "--packets=-"],
            input=question * 2000,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stderr == "netpolq: error: standard output: No space left on device\n"
    assert done.returncode == ExitCode.FAILED


def test_a_full_standard_error_changes_no_exit_code() -> None:
    with FULL.open("w") as full:
        done = subprocess.run([sys.executable, "-m", "netpolq", "start"], stderr=full, check=False, timeout=60)
    assert done.returncode == ExitCode.USAGE


def test_closed_output_is_no_crash() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m netpolq version >&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr


def test_kubeconfig_comes_from_the_flag_or_the_environment_and_is_empty_with_manifests(
    fake_pool: dict[str, str], manifests: Path, tmp_path: Path
) -> None:
    def found(*flags: str, **environ: str) -> str:
        result = netpolq("run", "--workers=1", *flags, environ={**fake_pool, "HOME": "/home/ann", **environ})
        (document,) = json.loads(result.stdout)["argv"]
        return settings_document.decode(document).kubeconfig

    assert found() == ""
    assert found(KUBECONFIG="/a:~/b") == "/a:/home/ann/b"
    assert found(KUBECONFIG=":") == ""
    assert found("--kubeconfig=/c", KUBECONFIG="/a") == "/c"
    assert found("--kubeconfig=~/c") == "/home/ann/c"
    assert found(NETPOLQ_KUBECONFIG="~/d") == "/home/ann/d"
    assert found("--manifests", str(manifests), KUBECONFIG="/a") == ""
    assert found("--kubeconfig=~no-such-user/c") == "~no-such-user/c"


def test_hold_runs_from_either_entry_point(capsys: pytest.CaptureFixture[str]) -> None:
    """A script from the installation of an older version calls `netpolq.cli`."""
    words = ("hold", "--pod-cidrs=10.0.0.0/24", "--print")
    assert cli.main(words) == ExitCode.OK
    assert capsys.readouterr().out == netpolq(*words).stdout != ""


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--since=2h", "a number and s, m or h, as in 30s or 5m, at most 1h"),
        ("--since=5", "a number and s, m or h"),
        ("--since=0s", "a number and s, m or h"),
        ("--pod=web", "NAMESPACE/NAME, where NAME may end with *"),
        ("--namespace=Shop", "the name of a namespace"),
        ("--from=shop/", "NAMESPACE, NAMESPACE/NAME, an address, a range of addresses or a domain name"),
        ("--to=10.0.0.1/33", "NAMESPACE, NAMESPACE/NAME, an address"),
        ("--port=65536", "PORT, PORT/PROTOCOL or PROTOCOL, as in 443, 53/UDP or ICMP"),
        ("--output=yaml", "text, wide, json or raw"),
        ("--timeout=0s", "a number and s, m or h, as in 30s or 5m, at most 10m"),
    ],
)
def test_flows_names_the_flag_with_a_wrong_value(flag: str, allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flows", flag]) == ExitCode.USAGE
    name, _equals, value = flag.partition("=")
    assert one_error_line(capsys).startswith(f"netpolq: error: flag {name}: invalid value {value!r}; allowed: {allowed}")


@pytest.mark.parametrize("flag", ["--node=node-1", "--agent-namespace=x", "--agent-selector=a=b", "--timeout=5s"])
def test_flows_refuses_a_flag_that_needs_a_cluster(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flows", flag]) == ExitCode.USAGE
    assert "give --kubeconfig FILE or --context NAME, too" in one_error_line(capsys)
