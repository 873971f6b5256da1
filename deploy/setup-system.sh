#!/usr/bin/env bash
# Installs what netpolq needs of the system on Debian and its kin: to build (compiler, headers), to run (nft) and to test
# (namespaces, ping). Does nothing when all of it is there.
set -euo pipefail

packages=(
    build-essential python3-dev python3-venv libnetfilter-queue-dev # builds the NetfilterQueue package
    nftables                                                        # the agent itself
    iproute2 iputils-ping procps                                    # demo and tests
)

missing=()
for package in "${packages[@]}"; do
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
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
