#!/usr/bin/env bash
# Opens connections at a given rate and counts the answers.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() {
    cat <<'TEXT'
usage: connection-rate.sh --target ADDRESS --port N [options]

Sends SYN packets to an allowed port with a listener, each from another source port, so that each is a new connection to evaluate. Counts
the answers. Accepted connections are reset at once.

  --target ADDRESS    IPv4 address of the pod (no name; required)
  --port N            a port with a listener
  --count N           number of packets, 1 to 50000 (default 1000)
  --rate N            packets per second, 1 to 20000 (default 500); count divided by rate: at most 60 seconds

Interpretation: all packets are answered while agent and pod can process the rate. Raise the rate until answers are missing. Then repeat
the run without an agent, because hping3 itself is limited to some thousands per second. Packets without an answer were dropped, or still
waited after a second. `rtt` has a resolution of 0.1 ms; for latency use connect-latency.sh.

exit codes: 0 at least 99 % were accepted; 1 fewer; 2 an invalid argument, or hping3 or the capability NET_RAW is missing
TEXT
}

target='' port='' count=1000 rate=500
while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --target) value "$@"; target=$2; shift 2 ;;
    --port) value "$@"; number "$1" "$2" 1 65535; port=$((10#$2)); shift 2 ;;
    --count) value "$@"; number "$1" "$2" 1 50000; count=$((10#$2)); shift 2 ;;
    --rate) value "$@"; number "$1" "$2" 1 20000; rate=$((10#$2)); shift 2 ;;
    *) refuse "$1: unknown; see --help" ;;
    esac
done
single_address "$target"
[[ -n $port ]] || refuse "--port N is required; see --help"
((count <= 60 * rate)) || refuse "--count $count at --rate $rate takes more than 60 seconds"
hping_can_reach "$target"

found=$(syn "$port" "$target" "$count" "$rate")
read -r sent answered accepted refused _ rtt_ms took_ms <<<"$found"
echo "$sent SYN to $target, port $port, in $took_ms ms: $((sent * 1000 / took_ms)) per second ($rate requested)"
echo "accepted $accepted, refused $refused, unanswered $((sent - answered)), average rtt $rtt_ms ms"
if ((accepted * 100 < sent * 99)); then
    echo 'Fewer than 99 % were accepted: policies deny the connection, the port has no listener (refused), or the rate was too high for the path.'
    exit "$UNEXPECTED"
fi
echo 'The agent and the pod can process this rate.'
