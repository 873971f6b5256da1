"""`make manifests`: writes what is derived from `image/reference.env` and from the overlays.

That is the image of the kustomizations and of the chart, and the files `install.yaml` and `install-fail-closed.yaml`, which hold an overlay
rendered by `kubectl kustomize`. Everything lies below the folder of this script. Exit code 1: the reference or an overlay is wrong.
"""

import os
import re
import subprocess
import sys

from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALL_FILES: Mapping[str, str] = {"install.yaml": "production", "install-fail-closed.yaml": "fail-closed"}
"""Overlays by file."""

_FORMS = {
    # Source: the grammar of image references (distribution/reference): host with port and folders, path, tag, digest.
    "REGISTRY": r"([a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*)?",
    "REPOSITORY": r"[a-z0-9]+([._/-]+[a-z0-9]+)*",
    "TAG": r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
    "DIGEST": r"(sha256:[0-9a-f]{64})?",
}
_COMPONENT = """\
# The image of all overlays. Made by `make manifests` from deploy/image/reference.env; edit that.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
images:
  - name: netpolq
    newName: {name}
    {version}
"""
_HEADER = """\
# netpolq, overlay {overlay}: kubectl apply --filename {file}
# Made by `make manifests` from deploy/kustomize/overlays/{overlay} and deploy/image/reference.env; edit those.
"""


def read_reference(path: Path) -> dict[str, str]:
    """The variables of a file. Raises `ValueError` if one is missing, unknown or malformed."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    if len(variables) != len(lines) or variables.keys() != _FORMS.keys():
        raise ValueError(f"{path}: must set each of {', '.join(_FORMS)} once, and nothing else")
    for name, form in _FORMS.items():
        if not re.fullmatch(form, variables[name]):
            raise ValueError(f"{path}: invalid value {variables[name]!r} for {name}: must match {form}")
    return variables


def write_component(reference: Mapping[str, str]) -> None:
    """The kustomize component that names the image."""
    name = "/".join(filter(None, (reference["REGISTRY"], reference["REPOSITORY"])))
    version = f"digest: {reference['DIGEST']}" if reference["DIGEST"] else f'newTag: "{reference["TAG"]}"'
    (HERE / "kustomize/image/kustomization.yaml").write_text(_COMPONENT.format(name=name, version=version), encoding="utf-8")


def write_chart_values(reference: Mapping[str, str]) -> None:
    """The image in the chart's values; comments and all other lines stay. Raises `ValueError` where it does not find one."""
    path = HERE / "helm/netpolq/values.yaml"
    text = path.read_text(encoding="utf-8")
    for name, value in reference.items():
        text, count = re.subn(rf"(?m)^  {name.lower()}: .*$", f'  {name.lower()}: "{value}"', text)
        if count != 1:
            raise ValueError(f"{path}: must have one line for image.{name.lower()}")
    path.write_text(text, encoding="utf-8")


def write_install_files(kubectl: str) -> None:
    """The rendered overlays. Raises `subprocess.CalledProcessError`."""
    for file, overlay in INSTALL_FILES.items():
        argv = [kubectl, "kustomize", str(HERE / "kustomize/overlays" / overlay)]
        rendered = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
        (HERE / file).write_text(_HEADER.format(overlay=overlay, file=file) + rendered, encoding="utf-8")


def main() -> int:
    """Write all files. Returns the exit code."""
    try:
        reference = read_reference(HERE / "image/reference.env")
        write_component(reference)
        write_chart_values(reference)
        write_install_files(os.environ.get("KUBECTL", "kubectl"))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"make manifests: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
