"""The shipped deployment, rendered by the tools that operators use, and the tools themselves."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, TypedDict

import helm_python
import pytest
import yaml

from loadtest.testbed.box import CHECKOUT

DEPLOY = CHECKOUT / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"
CHART = DEPLOY / "helm/netpolq"
LOADTEST = CHECKOUT / "loadtest/kubernetes"
LOADTEST_FOLDERS = ("server", "client", "syn")
OVERLAYS = ("kind", "production", "fail-closed")
_LIMIT_S = 60


class Variable(TypedDict, total=False):
    name: str
    value: str


class Probe(TypedDict):
    httpGet: dict[str, str | int]


class Container(TypedDict):
    name: str
    image: str
    imagePullPolicy: str
    args: list[str]
    env: list[Variable]
    ports: NotRequired[list[dict[str, str | int]]]
    livenessProbe: Probe
    readinessProbe: Probe
    startupProbe: Probe
    resources: dict[str, dict[str, str]]
    securityContext: dict[str, object]
    volumeMounts: list[dict[str, object]]


class PodSpec(TypedDict):
    serviceAccountName: str
    initContainers: list[Container]
    containers: list[Container]
    volumes: list[dict[str, object]]
    nodeSelector: dict[str, str]
    affinity: NotRequired[dict[str, object]]
    priorityClassName: NotRequired[str]


class _PodMetadata(TypedDict, total=False):
    labels: dict[str, str]
    annotations: dict[str, str]


class _Selector(TypedDict):
    matchLabels: dict[str, str]


class PodTemplate(TypedDict):
    metadata: _PodMetadata
    spec: PodSpec


class Spec(TypedDict):
    """Fields of the specs looked at here: of a DaemonSet, a PodMonitor and a PrometheusRule."""

    selector: _Selector
    template: PodTemplate
    updateStrategy: dict[str, object]
    podMetricsEndpoints: list[dict[str, list[dict[str, str]]]]
    groups: list[dict[str, object]]


class Metadata(TypedDict, total=False):
    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Manifest(TypedDict):
    """A rendered object; only the fields used here."""

    apiVersion: str
    kind: str
    metadata: Metadata
    spec: Spec
    rules: list[dict[str, list[str]]]
    roleRef: dict[str, str]
    data: dict[str, str]
    subjects: list[dict[str, str]]


Kind = Literal[
    "DaemonSet",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ServiceAccount",
    "PodMonitor",
    "PrometheusRule",
    "ConfigMap",
]


class Deployment(NamedTuple):
    """The objects of one rendering."""

    name: str
    manifests: tuple[Manifest, ...]

    def one(self, kind: Kind, end: str = "") -> Manifest:
        """The manifest of a kind. `end`: of its name."""
        (found,) = [one for one in self.manifests if one["kind"] == kind and one["metadata"]["name"].endswith(end)]
        return found

    @property
    def pod(self) -> PodTemplate:
        return self.one("DaemonSet")["spec"]["template"]

    @property
    def container(self) -> Container:
        (container,) = self.pod["spec"]["containers"]
        return container

    def environment(self) -> dict[str, str]:
        """Variables that have a value in the manifest."""
        return {variable["name"]: variable["value"] for variable in self.container["env"] if "value" in variable}

    def yaml(self) -> str:
        return yaml.safe_dump_all(self.manifests, sort_keys=False)


def tool(name: str, package: str, *candidates: Path) -> str:
    """Return the path of a program, from the candidates or the search path. Without it the test is skipped, or fails in CI."""
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return str(candidate)
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        reason = f"the program {name} is not installed: {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def kustomized(folder: Path) -> Deployment:
    """The objects that `kubectl apply -k` of a folder applies. Each folder of the checkout is rendered once, and parsed in each call."""
    text = _shipped(folder) if folder.is_relative_to(CHECKOUT) else _kustomize(folder)
    return Deployment(f"kustomize {os.path.relpath(folder, CHECKOUT)}", tuple(_objects(text)))


def _kustomize(folder: Path) -> str:
    kubectl = tool("kubectl", "make test-setup installs it", Path(sys.prefix) / "kubectl/kubectl")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


_shipped = cache(_kustomize)


def _objects(text: str) -> Iterator[Manifest]:
    # The loader in C takes a tenth of the time of PyYAML's own.
    return (manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest)


def with_component(folder: Path, component: Path) -> Deployment:
    """The objects of a folder with a component, from a kustomization elsewhere, as operators write it."""
    with tempfile.TemporaryDirectory() as own:
        references = {"resources": [os.path.relpath(folder, own)], "components": [os.path.relpath(component, own)]}
        kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        Path(own, "kustomization.yaml").write_text(yaml.safe_dump({**kind, **references}), encoding="utf-8")
        return kustomized(Path(own))


def charted(values: Mapping[str, object], *, release: str = "netpolq", namespace: str = "kube-system") -> Deployment:
    """The objects that an install of the chart applies. Raises `helm_python.HelmValuesError` for values that the schema refuses."""
    texts = _render(json.dumps(values), release, namespace)
    return Deployment(f"chart with {dict(values)}", tuple(manifest for text in texts for manifest in _objects(text)))


@cache
def _render(values: str, release: str, namespace: str) -> list[str]:
    """The files of the chart with these values, in order of their names."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(json.loads(values), name=release, namespace=namespace)
    return [text for path, text in sorted(texts.items()) if path.endswith(".yaml")]
