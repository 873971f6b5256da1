# shellcheck shell=bash
# Shared functions of the scripts of this folder, which source this file. Exit codes of all scripts:
#   0  the measurement succeeded, with the expected result
#   1  the measurement failed, or its result is not the expected one: see the output
#   2  an invalid or missing argument, or a missing program or privilege; nothing was sent

readonly UNEXPECTED=1 USAGE=2

refuse() {
    echo "${0##*/}: $*" >&2
    exit "$USAGE"
}

# value FLAG REMAINING-ARGUMENTS...: fails unless an argument follows the flag.
value() {
    if (($# < 2)) || [[ -z $2 ]]; then
        refuse "$1 needs a value; see --help"
    fi
}

# number FLAG TEXT MIN MAX: fails unless the text is a whole number between the two. No flag lifts these limits.
number() {
    if [[ ! $2 =~ ^[0-9]{1,9}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
        refuse "$1 $2: not a whole number from $3 to $4"
    fi
}

# need PROGRAM PACKAGE
need() {
    command -v "$1" >/dev/null || refuse "the program $1 is missing; Debian's package $2 has it"
}

# Fails unless the argument is the address of a single host. Names are not allowed, so that no lookup selects the target.
single_address() {
    local address=$1 part
    [[ -n $address ]] || refuse "--target ADDRESS is required; see --help"
    if [[ $address == *:* ]]; then
        [[ $address =~ ^[0-9a-fA-F:]+$ && $address == *:*:* ]] || refuse "--target $address: not an IPv4 or IPv6 address"
        [[ ${address,,} != ff* ]] || refuse "--target $address: a multicast address"
        return
    fi
    [[ $address =~ ^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})$ ]] ||
        refuse "--target $address: not an IPv4 or IPv6 address"
    for part in "${BASH_REMATCH[@]:1}"; do
        ((10#$part <= 255)) || refuse "--target $address: not an IPv4 or IPv6 address"
    done
    ((10#${BASH_REMATCH[1]} >= 1 && 10#${BASH_REMATCH[1]} <= 223)) || refuse "--target $address: not the address of a single host"
}

# hping3 builds IPv4 packets itself and sends them through a raw socket.
hping_can_reach() {
    [[ $1 != *:* ]] || refuse "--target $1: hping3 supports only IPv4"
    need hping3 hping3
    # Bit 13 of the effective capabilities is CAP_NET_RAW (linux/capability.h).
    local key effective
    while read -r key effective; do
        [[ $key != CapEff: ]] || break
    done </proc/self/status
    (((16#$effective >> 13) & 1)) || refuse "hping3 needs the capability NET_RAW: run as root, or in a pod that has it"
}

# syn PORT-ARGUMENT TARGET COUNT RATE: sends SYN packets, each from the next source port, and prints in one line: how many were sent,
# answered in any way of TCP, accepted (by SYN and ACK), refused (by RST) and answered by ICMP, the average round trip of those answered in
# milliseconds, and how long it took in milliseconds. hping3 may exit after it has counted the last answer and before it has printed
# it: then one more is answered than is accepted or refused. The kernel of this host resets accepted connections, since no socket has
# opened them.
syn() {
    local port=$1 target=$2 count=$3 rate=$4 began ended took_ms output found
    began=$EPOCHREALTIME
    # Ports that this host does not listen on, all different for one run. The exit code of hping3 is meaningless.
    output=$(timeout --signal=INT --kill-after=5 $((count / rate + 15)) hping3 --syn --numeric --destport "$port" \
        --baseport $((10000 + RANDOM % 5000)) --count "$count" --interval "u$((1000000 / rate))" "$target" 2>&1) || true
    ended=$EPOCHREALTIME
    took_ms=$(((${ended/[.,]/} - ${began/[.,]/}) / 1000))
    found=$(awk '
        /flags=SA/ { accepted++ }
        /flags=R/ { refused++ }
        /^ICMP / { icmp++ }
        match($0, /rtt=[0-9.]+/) { total += substr($0, RSTART + 4, RLENGTH - 4); timed++ }
        / packets transmitted/ { sent = $1; received = $4 }
        # If answers are missing, hping3 waits for one second at the end.
        END {
            took -= (received < sent) * 1000
            printf "%d %d %d %d %d %.2f %d", sent, (received < sent ? received : sent), accepted, refused, icmp, (timed ? total / timed : 0), (took > 0 ? took : 1)
        }
    ' took="$took_ms" <(echo "$output"))
    if [[ $found == 0\ * ]]; then
        echo "${0##*/}: hping3 sent nothing: ${output##*$'\n'}" >&2
        exit "$UNEXPECTED"
    fi
    echo "$found"
}
