#!/usr/bin/env bash
# Prints the manifests of the load test with the given image and address.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=../scripts/common.sh
source "$here/../scripts/common.sh"

usage() {
    cat <<'TEXT'
usage: render.sh server --image IMAGE
       render.sh client --image IMAGE --target ADDRESS
       render.sh syn --image IMAGE --target ADDRESS

Prints manifests and changes nothing. Pipe the output to `kubectl apply --filename -`.

  --image IMAGE       image with bash, coreutils, awk, grep and iperf3; for syn also hping3
  --target ADDRESS    address of the server's pod: kubectl -n netpolq-loadtest get pod server -o jsonpath={.status.podIP}

exit codes: 0 printed; 1 kubectl failed; 2 an invalid argument, or kubectl is missing
TEXT
}

part='' image='' target=''
while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --image) value "$@"; image=$2; shift 2 ;;
    --target) value "$@"; target=$2; shift 2 ;;
    server | client | syn) [[ -z $part ]] || refuse "$1: only one of server, client and syn at a time"; part=$1; shift ;;
    *) refuse "$1: unknown; see --help" ;;
    esac
done
[[ -n $part ]] || refuse 'one of server, client and syn is required; see --help'
# Only characters of image names, none of which is special in the sed program.
[[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]*$ ]] || refuse "--image IMAGE is required; not the name of an image: '$image'"
if [[ $part == server ]]; then
    [[ -z $target ]] || refuse '--target is only for client and syn'
else
    single_address "$target"
fi
need kubectl kubernetes-client

kubectl kustomize "$here/$part" | sed --regexp-extended \
    -e "s|^( *(- )?image: )netpolq-loadtest\$|\\1$image|" -e "/name: TARGET\$/{n;s|value: \"\"\$|value: \"$target\"|}" || exit "$UNEXPECTED"
