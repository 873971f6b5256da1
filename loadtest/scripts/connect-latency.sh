#!/usr/bin/env bash
# How long it takes to connect.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() {
    cat <<'TEXT'
usage: connect-latency.sh --target ADDRESS --port N [options]

Opens TCP connections to a port that the policies accept, one after the other, and prints how long that took. Needs bash alone.

  --target ADDRESS    IPv4 or IPv6 address of the pod; no name, no default
  --port N            a port that is listened on
  --count N           connections, 1 to 10000 (default 200)
  --pause-ms N        after each, 0 to 1000 (default 10); all of them together must be 60 seconds at most

How to read it: the time from before the connection is asked for until bash has it. The clock is exact to a microsecond; bash adds some
tens of microseconds of its own, always the same ones, so compare with the same run without an agent and take the difference. A maximum of
a second or more is a packet that was lost and sent again. The port of a closed connection rests for a minute: of 28000 there are usually.

exit codes: 0 all were made; 1 one was not, within 20 seconds more than the pauses take; 2 a wrong argument
TEXT
}

target='' port='' count=200 pause_ms=10
while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --target) value "$@"; target=$2; shift 2 ;;
    --port) value "$@"; number "$1" "$2" 1 65535; port=$((10#$2)); shift 2 ;;
    --count) value "$@"; number "$1" "$2" 1 10000; count=$((10#$2)); shift 2 ;;
    --pause-ms) value "$@"; number "$1" "$2" 0 1000; pause_ms=$((10#$2)); shift 2 ;;
    *) refuse "$1: unknown; see --help" ;;
    esac
done
single_address "$target"
[[ -n $port ]] || refuse "--port N must be given; see --help"
((count * pause_ms <= 60000)) || refuse "--count $count with --pause-ms $pause_ms takes more than 60 seconds"

# In a process of its own, since bash cannot be told to give up a connection: the limit ends it. It prints microseconds.
# shellcheck disable=SC2016  # expanded by the inner bash
sample='
    printf -v pause "%d.%03d" $(($4 / 1000)) $(($4 % 1000))
    exec {never}<> <(:)  # nothing is ever written there: a pause without a process
    for ((number = 0; number < $3; number++)); do
        began=$EPOCHREALTIME
        exec {connection}<>"/dev/tcp/$1/$2" || exit 1
        ended=$EPOCHREALTIME
        exec {connection}>&-
        echo $((${ended/[.,]/} - ${began/[.,]/}))
        (($4 == 0)) || read -r -t "$pause" -u "$never" || true
    done'
limit_s=$((count * pause_ms / 1000 + 20)) code=0
samples=$(timeout --kill-after=5 "$limit_s" "$BASH" -c "$sample" connect "$target" "$port" "$count" "$pause_ms") || code=$?
made=0
[[ -z $samples ]] || made=$(wc -l <<<"$samples")
echo "$made of $count connections to $target, port $port"
if ((made)); then
    sort -n <<<"$samples" | awk '
        { value[NR] = $1 }
        function at(share, rank) { rank = int(share * NR); if (rank < share * NR) rank++; return value[rank < 1 ? 1 : rank] }
        END { printf "connect in µs: p50 %d, p90 %d, p99 %d, most %d\n", at(0.5), at(0.9), at(0.99), value[NR] }'
fi
if ((code)); then
    ((code != 124 && code != 137)) || echo 'A connection was neither accepted nor refused in time: it is denied, or there is no such pod.'
    exit "$UNEXPECTED"
fi
echo 'Compare with a run without an agent: bash has its own share in each of these.'
