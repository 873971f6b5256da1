"""One file sets the image, and the files generated from it and from the overlays are current."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from loadtest.testbed.box import CHECKOUT
from tests.support.deployment import CHART, DEPLOY, KUSTOMIZE, LOADTEST, Manifest, kustomized, tool

FOLDERS = sorted(path.parent for root in (KUSTOMIZE, LOADTEST) for path in root.rglob("kustomization.yaml"))
INSTALL_FILES = {"install.yaml": "production", "install-fail-closed.yaml": "fail-closed"}
DIGEST = f"sha256:{'a' * 64}"
MADE = (
    "install.yaml",
    "install-fail-closed.yaml",
    "kustomize/image/kustomization.yaml",
    "helm/netpolq/values.yaml",
)


def kubectl() -> str:
    return tool("kubectl", "make test-setup installs it", Path(sys.prefix) / "kubectl/kubectl")


def copied(folder: Path) -> Path:
    """A copy of the deployment. Returns its folder."""
    return Path(shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns("__pycache__")))


def make(deploy: Path) -> subprocess.CompletedProcess[str]:
    """Run the commands of `make manifests` in a copy."""
    return subprocess.run(
        [sys.executable, deploy / "manifests.py"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KUBECTL": kubectl()},
        timeout=60,
    )


def refer(deploy: Path, **changes: str) -> None:
    path = deploy / "image/reference.env"
    text = path.read_text(encoding="utf-8")
    for name, value in changes.items():
        text = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", text)
    path.write_text(text, encoding="utf-8")


def test_what_make_manifests_writes_is_current(tmp_path: Path) -> None:
    """A second run changes nothing. The test compares objects, because the layout depends on kubectl's version."""
    deploy = copied(tmp_path)
    done = make(deploy)
    assert done.returncode == 0, done.stderr
    for name in MADE:
        shipped, fresh = ((folder / name).read_text(encoding="utf-8") for folder in (DEPLOY, deploy))
        assert objects(shipped) == objects(fresh), f"deploy/{name}: run make manifests"


def objects(text: str) -> list[str]:
    return sorted(json.dumps(document, sort_keys=True) for document in yaml.safe_load_all(text))


@pytest.mark.parametrize("file", INSTALL_FILES)
def test_a_single_file_installs_what_its_overlay_does(file: str) -> None:
    shipped: Sequence[Manifest] = list(yaml.safe_load_all((DEPLOY / file).read_text(encoding="utf-8")))
    assert objects((DEPLOY / file).read_text(encoding="utf-8")) == objects(
        kustomized(KUSTOMIZE / "overlays" / INSTALL_FILES[file]).yaml()
    )
    assert len(shipped) == 6


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({"REGISTRY": "registry.example:5000/team", "TAG": "1.2.3"}, "registry.example:5000/team/netpolq:1.2.3"),
        ({"REGISTRY": "registry.example", "REPOSITORY": "net/agent", "DIGEST": DIGEST}, f"registry.example/net/agent@{DIGEST}"),
    ],
    ids=["tag", "digest"],
)
def test_a_changed_reference_reaches_every_manifest_and_the_chart(changes: dict[str, str], image: str, tmp_path: Path) -> None:
    deploy = copied(tmp_path)
    refer(deploy, **changes)
    done = make(deploy)
    assert done.returncode == 0, done.stderr
    for file in INSTALL_FILES:
        assert images((deploy / file).read_text(encoding="utf-8")) == {image}
    argv = [kubectl(), "kustomize", str(deploy / "kustomize/cleanup")]
    assert images(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout) == {image}
    values = yaml.safe_load((deploy / "helm/netpolq/values.yaml").read_text(encoding="utf-8"))
    assert {name.upper(): values["image"][name.lower()] for name in changes} == changes


def images(text: str) -> set[str]:
    return set(re.findall(r"(?m)^ +image: (\S+)$", text))


@pytest.mark.parametrize(
    "changes",
    [{"DIGEST": "sha256:0"}, {"TAG": ""}, {"TAG": "a b"}, {"REPOSITORY": "Netpolq"}, {"REGISTRY": "https://images.example"}],
    ids=str,
)
def test_a_malformed_reference_is_named_and_nothing_is_written(changes: dict[str, str], tmp_path: Path) -> None:
    deploy = copied(tmp_path)
    refer(deploy, **changes)
    before = {name: (deploy / name).read_bytes() for name in MADE}
    done = make(deploy)
    assert done.returncode == 1
    (name,) = changes
    assert f"for {name}" in done.stderr
    assert {made: (deploy / made).read_bytes() for made in MADE} == before


def test_the_tag_is_the_version_of_project_and_chart() -> None:
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert f"\nTAG={version}\n" in (DEPLOY / "image/reference.env").read_text(encoding="utf-8")
    assert (chart["version"], chart["appVersion"]) == (version, version)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(CHECKOUT)))
def test_no_kustomization_uses_a_deprecated_field(folder: Path) -> None:
    """kubectl reports them on standard error. A component is rendered by the kustomization that includes it."""
    text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
    if yaml.safe_load(text)["kind"] == "Kustomization":
        done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    deprecated = {"bases", "patchesStrategicMerge", "patchesJson6902", "commonLabels", "vars", "imageTags"}
    assert not deprecated & yaml.safe_load(text).keys()
