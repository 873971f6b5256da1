#!/usr/bin/env bash
# Sends a bounded flood of denied connections.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() {
    cat <<'TEXT'
usage: denied-flood.sh --target ADDRESS --port N [options]

Sends SYN packets that policies deny to your own pod, each from another source port of this host, and checks that none is answered.
Meanwhile run connect-latency.sh or your application from another pod, and watch its latency.

  --target ADDRESS    IPv4 address of the pod (no name; required)
  --port N            a denied port
  --next-ports        send each packet to the next port, from N on, so that each needs a new decision. Without this flag there is one
                      for all, which the kernel remembers
  --count N           number of packets, 1 to 50000 (default 5000)
  --rate N            packets per second, 1 to 20000 (default 500); count divided by rate: at most 60 seconds

Interpretation: there must be no answer. Any answer, including a RST, means that a packet has reached the pod. With --next-ports, N plus the
count must be at most 65536, and the range must contain no allowed port.

exit codes: 0 no packet was answered; 1 at least one was; 2 an invalid argument, or hping3 or the capability NET_RAW is missing
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
[[ -n $port ]] || refuse "--port N is required; see --help"
((count <= 60 * rate)) || refuse "--count $count at --rate $rate takes more than 60 seconds"
[[ -z $next ]] || ((port + count <= 65536)) || refuse "--next-ports: there are fewer than $count ports from $port on"
hping_can_reach "$target"

found=$(syn "$next$port" "$target" "$count" "$rate")
read -r sent answered accepted refused icmp _ took_ms <<<"$found"
where="port $port${next:+ to $((port + sent - 1))}"
echo "$sent SYN to $target, $where, in $took_ms ms: $((sent * 1000 / took_ms)) per second ($rate requested)"
echo "answered $answered (accepted $accepted, refused $refused), answered by ICMP $icmp"
if ((answered + icmp > 0)); then
    echo 'A packet was answered: the policies do not deny all packets, or the agent did not evaluate them.'
    exit "$UNEXPECTED"
fi
echo 'No packet was answered: all were denied (or the pod does not exist: check that an allowed port answers).'
