#!/usr/bin/env bash
# Measures the throughput of an established connection with iperf3.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() {
    cat <<'TEXT'
usage: throughput.sh --target ADDRESS [options]

Sends data to `iperf3 --server` on another pod over one allowed connection, and prints the received rate.

  --target ADDRESS    IPv4 or IPv6 address of the pod (no name; required)
  --port N            port of the server: TCP, and for UDP both (default 5201)
  --protocol P        tcp (default): at the highest rate. udp: datagrams at a fixed rate
  --mbit-per-s N      rate of UDP, 1 to 40000 (default 100)
  --seconds N         1 to 60 (default 5)

Interpretation: the agent evaluates only the first packet, so this shows the cost of the rules for all later packets. Compare with the same
run without an agent, several times in turn; single runs differ by some percent. TCP: use the receiver's line; `Retr` are retransmissions.
UDP: set a rate near the capacity of the path and compare the loss; a lower rate shows no difference.

exit codes: 0 measured; 1 iperf3 failed (see its message); 2 an invalid argument or a missing program
TEXT
}

target='' port=5201 protocol=tcp rate=100 seconds=5
while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --target) value "$@"; target=$2; shift 2 ;;
    --port) value "$@"; number "$1" "$2" 1 65535; port=$((10#$2)); shift 2 ;;
    --protocol) value "$@"; protocol=$2; shift 2 ;;
    --mbit-per-s) value "$@"; number "$1" "$2" 1 40000; rate=$((10#$2)); shift 2 ;;
    --seconds) value "$@"; number "$1" "$2" 1 60; seconds=$((10#$2)); shift 2 ;;
    *) refuse "$1: unknown; see --help" ;;
    esac
done
single_address "$target"
need iperf3 iperf3

arguments=(--client "$target" --port "$port" --time "$seconds" --interval 0 --format m --connect-timeout 5000)
case $protocol in
tcp) ;;
udp) arguments+=(--udp --length 1400 --bitrate "${rate}M") ;;
*) refuse "--protocol $protocol: neither tcp nor udp" ;;
esac

if ! output=$(timeout --kill-after=5 $((seconds + 20)) iperf3 "${arguments[@]}" 2>&1); then
    echo "${0##*/}: no measurement from $target, port $port: ${output##*$'\n'}" >&2
    exit "$UNEXPECTED"
fi
echo "$protocol to $target, port $port, $seconds s"
grep -E 'Bitrate|sender$|receiver$' <<<"$output"
echo 'The line of the receiver shows the received rate. Compare with a run without an agent.'
