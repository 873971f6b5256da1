#!/bin/sh
# Installs what the tests in a virtual machine need: a stock Debian kernel, an emulator, and virtme-ng, which boots the one in the
# other on this machine's own file system. Does nothing that is already done.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)

packages="qemu-system-x86 linux-image-amd64 kmod busybox-static nftables conntrack iproute2 ipvsadm util-linux"
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

if [ ! -x "$root/.venv/bin/vng" ]; then
    echo "installing virtme-ng"
    if [ -x "$root/.venv/bin/uv" ]; then
        "$root/.venv/bin/uv" pip install --quiet --python "$root/.venv/bin/python" 'virtme-ng>=1.32'
    else
        "$root/.venv/bin/python" -m pip install --quiet 'virtme-ng>=1.32'
    fi
fi
