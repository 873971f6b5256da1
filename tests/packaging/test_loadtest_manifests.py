"""The jobs of the load test for a cluster: valid, accepted by the stated Pod Security levels, with correct addresses, ports and scripts."""

import copy
import json
import os
import re
import subprocess

from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from loadtest.testbed.box import CHECKOUT
from netpolq import cli
from tests.support.deployment import LOADTEST, LOADTEST_FOLDERS, tool

API_VERSIONS = ("1.25", kubernetes_validate.latest_version())
IMAGE = "registry.example/tools@sha256:" + "0" * 64
SERVER, CLIENT, STRANGER = "10.1.2.3", "10.1.2.4", "10.1.2.5"
JOBS = ("client", "syn")
PLACEHOLDER = "netpolq-loadtest"
LEVEL = "pod-security.kubernetes.io/enforce"


class Capabilities(TypedDict):
    drop: list[str]
    add: NotRequired[list[str]]


class Security(TypedDict, total=False):
    allowPrivilegeEscalation: bool
    readOnlyRootFilesystem: bool
    runAsNonRoot: bool
    runAsUser: int
    capabilities: Capabilities
    seccompProfile: dict[str, str]


class Container(TypedDict):
    name: str
    image: str
    command: list[str]
    env: NotRequired[list[dict[str, str]]]
    ports: NotRequired[list[dict[str, object]]]
    securityContext: Security


class PodSpec(TypedDict):
    initContainers: NotRequired[list[Container]]
    containers: list[Container]
    securityContext: Security
    volumes: list[dict[str, dict[str, object]]]


class Metadata(TypedDict):
    name: str
    namespace: NotRequired[str]
    labels: NotRequired[dict[str, str]]


class Template(TypedDict):
    metadata: Metadata
    spec: PodSpec


class Spec(TypedDict):
    template: Template


class Manifest(TypedDict):
    apiVersion: str
    kind: str
    metadata: Metadata
    spec: Spec
    data: dict[str, str]


@cache
def rendered(part: str) -> tuple[Manifest, ...]:
    """The manifests that an operator applies."""
    words = [part, "--image", IMAGE, *(() if part == "server" else ("--target", SERVER))]
    tool("kubectl", "Debian's package kubernetes-client")
    done = subprocess.run([LOADTEST / "render.sh", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def one(part: str, kind: str) -> Manifest:
    (found,) = (manifest for manifest in rendered(part) if manifest["kind"] == kind)
    return found


def pod_spec(part: str) -> PodSpec:
    if part == "server":
        return cast("PodSpec", one(part, "Pod")["spec"])
    return one(part, "Job")["spec"]["template"]["spec"]


def containers(part: str) -> list[Container]:
    spec = pod_spec(part)
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("api_version", API_VERSIONS)
@pytest.mark.parametrize("part", LOADTEST_FOLDERS)
def test_every_manifest_is_valid_in_the_oldest_and_the_newest_api(part: str, api_version: str) -> None:
    kinds = {manifest["kind"] for manifest in rendered(part)}
    assert (
        kinds
        == {
            "server": {"Namespace", "Pod", "NetworkPolicy"},
            "client": {"ConfigMap", "Job"},
            "syn": {"Namespace", "ConfigMap", "Job"},
        }[part]
    )
    for manifest in rendered(part):
        kubernetes_validate.validate(manifest, api_version, strict=True)


def test_the_validator_refuses_a_field_that_does_not_exist() -> None:
    broken = copy.deepcopy(one("client", "Job"))
    broken["spec"]["templates"] = {}  # type: ignore[typeddict-unknown-key]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, API_VERSIONS[0], strict=True)


def test_the_commands_of_the_readme_render_every_part() -> None:
    commands = re.findall(r"(?m)^\./render\.sh .*(?= \| kubectl apply --filename -)", (LOADTEST.parent / "README.md").read_text())
    assert [command.split()[1] for command in commands] == list(LOADTEST_FOLDERS)
    for part, command in zip(LOADTEST_FOLDERS, commands, strict=True):
        environment = {**os.environ, "IMAGE": IMAGE, "TARGET": SERVER}
        done = subprocess.run(
            ["/bin/bash", "-c", command], capture_output=True, text=True, check=False, timeout=60, cwd=LOADTEST, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert tuple(yaml.safe_load_all(done.stdout)) == rendered(part)


@pytest.mark.parametrize("part", LOADTEST_FOLDERS)
def test_everything_is_in_a_namespace_of_its_own(part: str) -> None:
    for manifest in rendered(part):
        metadata = manifest["metadata"]
        name = metadata["name"] if manifest["kind"] == "Namespace" else metadata.get("namespace")
        assert name == "netpolq-loadtest"


@pytest.mark.parametrize("part", LOADTEST_FOLDERS)
def test_the_operators_image_and_address_are_in_every_container(part: str) -> None:
    assert {container["image"] for container in containers(part)} == {IMAGE}
    for container in containers(part):
        variables = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        assert variables == ({} if part == "server" else {"TARGET": SERVER})


@pytest.mark.parametrize("part", JOBS)
def test_without_an_address_the_scripts_do_nothing(part: str) -> None:
    """The manifests in the folder have no address: a job that is applied without rendering fails at once."""
    done = subprocess.run(
        [tool("kubectl", "Debian's package kubernetes-client"), "kustomize", str(LOADTEST / part)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    (job,) = (cast("Manifest", body) for body in yaml.safe_load_all(done.stdout) if body["kind"] == "Job")
    spec = job["spec"]["template"]["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["image"] == PLACEHOLDER
        assert container.get("env") == [{"name": "TARGET", "value": ""}]
        ran = run_script(container, target="")
        assert ran.returncode == 2
        assert "--target" in ran.stderr


@pytest.mark.parametrize("part", JOBS)
def test_the_scripts_of_a_job_are_mounted_and_take_its_arguments(part: str) -> None:
    """With --help as the last argument: the script checks all arguments before it, and sends nothing."""
    config = one(part, "ConfigMap")
    (volume,) = (volume for volume in pod_spec(part)["volumes"] if "configMap" in volume)
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    for container in containers(part):
        script = Path(container["command"][0])
        assert script.parent == Path("/scripts")
        assert {script.name, "common.sh"} <= config["data"].keys()
        ran = run_script(container, "--help", target=SERVER)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith(f"usage: {script.name} ")


def run_script(container: Container, *words: str, target: str) -> subprocess.CompletedProcess[str]:
    script, *arguments = (word.replace("$(TARGET)", target) for word in container["command"])
    argv = [str(CHECKOUT / "loadtest/scripts" / Path(script).name), *arguments, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)


@pytest.mark.parametrize("part", ["server", "client"])
def test_what_needs_no_privilege_is_admitted_by_the_level_restricted(part: str) -> None:
    """Source: Pod Security Standards, level restricted, which the namespace enforces."""
    assert (one("server", "Namespace")["metadata"].get("labels") or {})[LEVEL] == "restricted"
    security = pod_spec(part)["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(part):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_what_needs_a_raw_socket_has_one_capability_in_a_namespace_that_says_so() -> None:
    assert (one("syn", "Namespace")["metadata"].get("labels") or {})[LEVEL] == "privileged"
    for container in containers("syn"):
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_RAW"]}
        assert not security["allowPrivilegeEscalation"]


@pytest.mark.parametrize("part", JOBS)
def test_the_policies_admit_what_is_measured_and_deny_what_is_flooded(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """netpolq itself evaluates them, for a pod of the job and for another pod."""
    template = one(part, "Job")["spec"]["template"]
    write(tmp_path, template)
    for container in containers(part):
        words = container["command"]
        port = int(words[words.index("--port") + 1])
        denied = container["command"][0].endswith("denied-flood.sh")
        ports = (port, port + 4_999) if "--next-ports" in words else (port,)
        for number in ports:
            for protocol in ("TCP", "UDP") if "udp" in words else ("TCP",):
                expected = "DROP" if denied else "ACCEPT"
                assert verdict(capsys, tmp_path, CLIENT, protocol, number) == expected, (container, number)
                assert verdict(capsys, tmp_path, STRANGER, protocol, number) == "DROP"


def write(folder: Path, template: Template) -> None:
    """Write the cluster with the server and a running job."""
    pods = []
    for name, address, labels in (
        ("server", SERVER, one("server", "Pod")["metadata"]["labels"]),
        ("client", CLIENT, template["metadata"]["labels"]),
        ("stranger", STRANGER, {"app.kubernetes.io/name": "other"}),
    ):
        metadata = {"name": name, "namespace": "netpolq-loadtest", "labels": labels}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        spec = {"nodeName": "node", "containers": [{"name": "main"}]}
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
    others = [manifest for manifest in rendered("server") if manifest["kind"] != "Pod"]
    (folder / "cluster.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*others, *pods]}))


def verdict(capsys: pytest.CaptureFixture[str], folder: Path, source: str, protocol: str, port: int) -> str:
    argv = ["explain", "--manifests", str(folder), "--output", "json", "--src", source]
    cli.main([*argv, "--dst", SERVER, "--protocol", protocol, "--port", str(port)])
    printed = capsys.readouterr()
    assert printed.out, printed.err
    found: str = json.loads(printed.out)["verdict"]
    return found.upper()
