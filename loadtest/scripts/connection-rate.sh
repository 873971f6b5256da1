#!/usr/bin/env bash
# New connections at a given rate: how many are answered.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() {
    cat <<'TEXT'
usage: connection-rate.sh --target ADDRESS --port N [options]

Sends SYN packets to a port that the policies accept and that is listened on, each from another source port, so each is a new connection
to be judged; counts what is answered. Connections are reset as soon as they are accepted.

  --target ADDRESS    IPv4 address of the pod; no name, no default
  --port N            a port that is listened on
  --count N           packets, 1 to 50000 (default 1000)
  --rate N            packets per second, 1 to 20000 (default 500); count divided by rate must be 60 seconds at most

How to read it: all are answered as long as the agent, and the pod, keep up with the rate. Raise the rate until answers are missing; then
do the same without an agent, since hping3 itself sends and sees no more than some thousands per second. Packets that nobody answered were
dropped, or still waiting after a second. `rtt` has a resolution of 0.1 ms; for latency take connect-latency.sh.

exit codes: 0 at least 99 % were accepted; 1 fewer; 2 a wrong argument, or hping3 or the capability NET_RAW is missing
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
[[ -n $port ]] || refuse "--port N must be given; see --help"
((count <= 60 * rate)) || refuse "--count $count at --rate $rate takes more than 60 seconds"
hping_can_reach "$target"

found=$(syn "$port" "$target" "$count" "$rate")
read -r sent answered accepted refused _ rtt_ms took_ms <<<"$found"
echo "$sent SYN to $target, port $port, in $took_ms ms: $((sent * 1000 / took_ms)) per second ($rate were asked for)"
echo "accepted $accepted, refused $refused, unanswered $((sent - answered)), average rtt $rtt_ms ms"
if ((accepted * 100 < sent * 99)); then
    echo 'Fewer than 99 % were accepted: the policies deny it, nobody listens (refused), or the rate was too much for somebody on the way.'
    exit "$UNEXPECTED"
fi
echo 'The agent and the pod keep up with this rate.'
