#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing; does nothing when all are there. Services that come with them are not
# started.
set -euo pipefail

missing=()
for package in "$@"; do
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    exit 0
fi
if ((EUID != 0)); then
    echo "these packages are missing, and only root may install them: ${missing[*]}" >&2
    exit 1
fi
echo "installing ${missing[*]}"
# Asked by every package before it starts a service; 101 forbids it (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
