#!/usr/bin/env bash
# A bounded flood of connections that the policies deny.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() {
    cat <<'TEXT'
usage: denied-flood.sh --target ADDRESS --port N [options]

Sends SYN packets to a pod of your own which the policies deny, each from another source port of this host, and sees that nothing is
answered. Run connect-latency.sh or your application beside it, from another pod: that is what is to be looked at.

  --target ADDRESS    IPv4 address of the pod; no name, no default
  --port N            a port that is denied
  --next-ports        each packet goes to the next port, from N on: every packet a decision of its own. Without it there is one decision
                      for all, which the kernel remembers
  --count N           packets, 1 to 50000 (default 5000)
  --rate N            packets per second, 1 to 20000 (default 500); count divided by rate must be 60 seconds at most

How to read it: not a single answer may come. An answer, also a refusal (RST), means that a packet has reached the pod. With --next-ports
keep N plus the count below 65536, and the ports that are allowed out of it.

exit codes: 0 nothing was answered; 1 something was; 2 a wrong argument, or hping3 or the capability NET_RAW is missing
TEXT
}

target='' port='' next='' count=5000 rate=500
while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --target) value "$@"; target=$2; shift 2 ;;
    --port) value "$@"; number "$1" "$2" 1 65535; port=$((10#$2)); shift 2 ;;
    --next-ports) next='++'; shift ;;
    --count) value "$@"; number "$1" "$2" 1 50000; count=$((10#$2)); shift 2 ;;
    --rate) value "$@"; number "$1" "$2" 1 20000; rate=$((10#$2)); shift 2 ;;
    *) refuse "$1: unknown; see --help" ;;
    esac
done
single_address "$target"
[[ -n $port ]] || refuse "--port N must be given; see --help"
((count <= 60 * rate)) || refuse "--count $count at --rate $rate takes more than 60 seconds"
[[ -z $next ]] || ((port + count <= 65536)) || refuse "--next-ports: from port $port on there are not $count ports"
hping_can_reach "$target"

found=$(syn "$next$port" "$target" "$count" "$rate")
read -r sent answered accepted refused icmp _ took_ms <<<"$found"
where="port $port${next:+ to $((port + sent - 1))}"
echo "$sent SYN to $target, $where, in $took_ms ms: $((sent * 1000 / took_ms)) per second ($rate were asked for)"
echo "answered $answered (accepted $accepted, refused $refused), answered by ICMP $icmp"
if ((answered + icmp > 0)); then
    echo 'Something was answered: the policies do not deny all of it, or it was not judged.'
    exit "$UNEXPECTED"
fi
echo 'Nothing was answered: all of it was denied (or there is no such pod: a port that is allowed must answer).'
