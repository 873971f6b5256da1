#!/usr/bin/env bash
# Measures the time of TCP connects.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() {
    cat <<'TEXT'
usage: connect-latency.sh --target ADDRESS --port N [options]

Opens TCP connections to an allowed port, one after the other, and prints the time they took. Needs only bash.

  --target ADDRESS    IPv4 or IPv6 address of the pod (no name; required)
  --port N            a port with a listener
  --count N           number of connections, 1 to 10000 (default 200)
  --pause-ms N        pause after each, 0 to 1000 (default 10); all pauses together at most 60 seconds

Interpretation: the time of one connect in bash. The clock has a resolution of one microsecond. bash adds a constant overhead of some tens
of microseconds, so compare with the same run without an agent and use the difference. A maximum of a second or more means that a packet
was lost and sent again. The port of a closed connection stays reserved for a minute; usually there are 28000 ports.

exit codes: 0 all connections succeeded; 1 one failed, or all together took 20 seconds more than the pauses; 2 an invalid argument
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
[[ -n $port ]] || refuse "--port N is required; see --help"
((count * pause_ms <= 60000)) || refuse "--count $count with --pause-ms $pause_ms takes more than 60 seconds"

# A separate process, because bash has no timeout for a connect: `timeout` ends the process. It prints microseconds.
# shellcheck disable=SC2016  # expanded by the inner bash
sample='
    printf -v pause "%d.%03d" $(($4 / 1000)) $(($4 % 1000))
    exec {never}<> <(:)  # nothing writes to it: the read is a pause without a process
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
        END { printf "connect in µs: p50 %d, p90 %d, p99 %d, max %d\n", at(0.5), at(0.9), at(0.99), value[NR] }'
fi
if ((code)); then
    ((code != 124 && code != 137)) || echo 'A connection was neither accepted nor refused in time: policies deny it, or the pod does not exist.'
    exit "$UNEXPECTED"
fi
echo 'Compare with a run without an agent: each value includes the overhead of bash.'
