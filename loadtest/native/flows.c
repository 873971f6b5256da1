/* Sends packets of new flows through AF_PACKET, as fast as one core can or at a given rate.
 *
 * Every packet is a whole frame with correct checksums: connection tracking verifies them, and an incomplete checksum of a queued packet
 * would be additional work for the receiver. The socket bypasses the queueing discipline, so a packet that a veth refuses fails with
 * ENOBUFS and is counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum { BATCH = 64, MAX_RANGES = 64, MAX_PAYLOAD = 1400, IPV4_BYTES = 20, IPV6_BYTES = 40, UDP_BYTES = 8, TCP_BYTES = 20 };
enum { FRAME_BYTES = ETH_HLEN + IPV6_BYTES + TCP_BYTES + MAX_PAYLOAD };

static const char help[] =
    "usage: flows --interface NAME --to-mac MAC --source ADDRESSES --destination ADDRESSES [options]\n"
    "\n"
    "Send packets, each the first of a new flow, out of an interface. Reports one JSON object on standard output:\n"
    "sent, refused (by the interface: ENOBUFS), seconds, rate_per_s, began_s and ended_s of CLOCK_MONOTONIC,\n"
    "and cpu_s: its own time on a CPU, with what the kernel did on it for the packets it sent.\n"
    "\n"
    "Run it inside the sender's namespace: ip netns exec POD flows --interface eth0 --to-mac MAC ...\n"
    "\n"
    "  --interface NAME          interface that sends the frames\n"
    "  --to-mac MAC              destination of the frames: the other end of the veth\n"
    "  --source ADDRESSES        one address, FIRST-LAST, or PREFIX/LENGTH; may be given up to 64 times\n"
    "  --destination ADDRESSES   the same; all of one family\n"
    "  --source-ports A-B        default 1024-65535\n"
    "  --destination-ports A-B   or a single one; default 8080\n"
    "  --protocol P              udp (default), or tcp: SYN packets\n"
    "  --order O                 ports (default): each packet the next source port, then the next source address, then the next\n"
    "                            destination port, then the next destination;\n"
    "                            random: a random one of each. Address ranges are drawn evenly, whatever their sizes.\n"
    "  --first N                 with --order ports: begin with the N-th flow (default 0), to continue where an earlier call ended\n"
    "  --seed N                  with --order random (default 1)\n"
    "  --payload BYTES           of UDP; default 8\n"
    "  --count N                 stop after this number of packets\n"
    "  --seconds S               stop after this time; at least one of --count and --seconds must be given\n"
    "  --rate N                  packets per second; default: as many as possible\n"
    "  --cpu N                   stay on this CPU\n"
    "\n"
    "SIGINT and SIGTERM end it early, with the report.\n";

struct range {
    uint8_t first[16]; /* as on the wire; IPv4 in the first four bytes */
    uint64_t count;
};

struct ranges {
    int family;
    unsigned number;
    uint64_t total;
    struct range items[MAX_RANGES];
};

struct ports {
    uint32_t first, count;
};

struct options {
    const char *interface;
    uint8_t to_mac[ETH_ALEN];
    bool have_mac;
    struct ranges source, destination;
    struct ports source_ports, destination_ports;
    bool tcp, random;
    uint64_t first_flow, seed, count, payload;
    double seconds, rate;
    int cpu;
};

struct flow {
    uint8_t source[16], destination[16];
    uint16_t source_port, destination_port;
};

static double clock_s(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double now_s(void) {
    return clock_s(CLOCK_MONOTONIC);
}

/* The offset is added to the low 64 bits (IPv6) or to the address (IPv4); ranges are checked when they are read. */
static void address_at(const struct range *range, int family, uint64_t offset, uint8_t *out) {
    unsigned end = family == AF_INET ? 4 : 16, begin = family == AF_INET ? 0 : 8;
    memcpy(out, range->first, 16);
    for (unsigned position = end; offset && position-- > begin;) {
        offset += out[position];
        out[position] = (uint8_t)offset;
        offset >>= 8;
    }
}

static uint64_t low_bits(const uint8_t *address, int family) {
    uint64_t value = 0;
    for (unsigned position = family == AF_INET ? 0 : 8; position < (family == AF_INET ? 4U : 16U); position++)
        value = value << 8 | address[position];
    return value;
}

static int read_address(const char *text, uint8_t *out) {
    memset(out, 0, 16);
    if (inet_pton(AF_INET, text, out) == 1)
        return AF_INET;
    return inet_pton(AF_INET6, text, out) == 1 ? AF_INET6 : 0;
}

static void read_range(const char *flag, const char *argument, struct ranges *ranges) {
    char text[128];
    if (ranges->number == MAX_RANGES)
        fail(USAGE, "%s: at most %d ranges", flag, MAX_RANGES);
    snprintf(text, sizeof text, "%s", argument);
    char *rest = text + strcspn(text, "-/");
    const char kind = *rest;
    if (kind)
        *rest++ = 0;
    struct range *range = &ranges->items[ranges->number];
    const int family = read_address(text, range->first);
    if (!family)
        fail(USAGE, "%s %s: not an address, FIRST-LAST or PREFIX/LENGTH", flag, argument);
    if (ranges->number && family != ranges->family)
        fail(USAGE, "%s %s: another family than before", flag, argument);
    const uint64_t first = low_bits(range->first, family);
    range->count = 1;
    if (kind == '-') {
        uint8_t last[16];
        const bool same = read_address(rest, last) == family && (family == AF_INET || !memcmp(last, range->first, 8));
        if (!same || low_bits(last, family) < first || low_bits(last, family) - first >= UINT32_MAX)
            fail(USAGE, "%s %s: the last address must follow the first, by less than 2^32", flag, argument);
        range->count = low_bits(last, family) - first + 1;
    } else if (kind == '/') {
        char *end;
        const int width = family == AF_INET ? 32 : 128;
        const long length = strtol(rest, &end, 10);
        if (*end || end == rest || length > width || length < width - 31)
            fail(USAGE, "%s %s: the length must be from %d to %d", flag, argument, width - 31, width);
        range->count = UINT64_C(1) << (width - length);
        if (first & (range->count - 1))
            fail(USAGE, "%s %s: the address has bits beyond the prefix", flag, argument);
    }
    ranges->family = family;
    ranges->total += range->count;
    ranges->number++;
}

static struct ports read_ports(const char *flag, const char *text) {
    char *end;
    const unsigned long first = strtoul(text, &end, 10);
    unsigned long last = first;
    if (end != text && *end == '-') {
        const char *rest = end + 1;
        last = strtoul(rest, &end, 10);
        if (end == rest)
            end = (char *)text;
    }
    if (end == text || *end || !first || last > 65535 || last < first)
        fail(USAGE, "%s %s: not a port or a range of ports", flag, text);
    return (struct ports){.first = (uint32_t)first, .count = (uint32_t)(last - first + 1)};
}

static double read_number(const char *flag, const char *text, double least, double most) {
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most))
        fail(USAGE, "%s %s: not a number from %g to %g", flag, text, least, most);
    return value;
}

static void read_mac(const char *text, struct options *options) {
    unsigned parts[ETH_ALEN];
    int used = 0;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", parts, parts + 1, parts + 2, parts + 3, parts + 4, parts + 5, &used) != ETH_ALEN ||
        text[used])
        fail(USAGE, "--to-mac %s: not a MAC address", text);
    for (int position = 0; position < ETH_ALEN; position++)
        options->to_mac[position] = (uint8_t)parts[position];
    options->have_mac = true;
}

static struct options read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"interface", 1, 0, 'i'}, {"to-mac", 1, 0, 'm'},       {"source", 1, 0, 's'},     {"destination", 1, 0, 'd'},
        {"source-ports", 1, 0, 'S'}, {"destination-ports", 1, 0, 'D'}, {"protocol", 1, 0, 'p'}, {"order", 1, 0, 'o'},
        {"first", 1, 0, 'f'},     {"seed", 1, 0, 'e'},         {"payload", 1, 0, 'l'},    {"count", 1, 0, 'c'},
        {"seconds", 1, 0, 't'},   {"rate", 1, 0, 'r'},         {"cpu", 1, 0, 'u'},        {"help", 0, 0, 'h'},
        {0, 0, 0, 0},
    };
    struct options options = {
        .source_ports = {1024, 65535 - 1024 + 1}, .destination_ports = {8080, 1}, .payload = 8, .seed = 1, .cpu = -1,
    };
    for (int letter; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (letter) {
        case 'i': options.interface = optarg; break;
        case 'm': read_mac(optarg, &options); break;
        case 's': read_range("--source", optarg, &options.source); break;
        case 'd': read_range("--destination", optarg, &options.destination); break;
        case 'S': options.source_ports = read_ports("--source-ports", optarg); break;
        case 'D': options.destination_ports = read_ports("--destination-ports", optarg); break;
        case 'p':
            options.tcp = !strcmp(optarg, "tcp");
            if (!options.tcp && strcmp(optarg, "udp"))
                fail(USAGE, "--protocol %s: neither udp nor tcp", optarg);
            break;
        case 'o':
            options.random = !strcmp(optarg, "random");
            if (!options.random && strcmp(optarg, "ports"))
                fail(USAGE, "--order %s: neither ports nor random", optarg);
            break;
        case 'f': options.first_flow = (uint64_t)read_number("--first", optarg, 0, 9e15); break;
        case 'e': options.seed = (uint64_t)read_number("--seed", optarg, 0, 9e15); break;
        case 'l': options.payload = (uint64_t)read_number("--payload", optarg, 0, MAX_PAYLOAD); break;
        case 'c': options.count = (uint64_t)read_number("--count", optarg, 1, 9e15); break;
        case 't': options.seconds = read_number("--seconds", optarg, 0.001, 86400); break;
        case 'r': options.rate = read_number("--rate", optarg, 0.001, 1e9); break;
        case 'u': options.cpu = (int)read_number("--cpu", optarg, 0, CPU_SETSIZE - 1); break;
        case 'h': fputs(help, stdout); exit(0);
        default: exit(USAGE);
        }
    }
    if (optind != argc)
        fail(USAGE, "%s: unexpected", argv[optind]);
    if (!options.interface || !options.have_mac || !options.source.number || !options.destination.number)
        fail(USAGE, "--interface, --to-mac, --source and --destination must be given; see --help");
    if (options.source.family != options.destination.family)
        fail(USAGE, "--source and --destination are of different families");
    if (!options.count && options.seconds == 0)
        fail(USAGE, "an end must be given: --count or --seconds");
    return options;
}

static uint64_t random_state[2];

/* xorshift128+: fast, and good enough to pick addresses. */
static uint64_t next_random(void) {
    uint64_t first = random_state[0];
    const uint64_t second = random_state[1];
    random_state[0] = second;
    first ^= first << 23;
    random_state[1] = first ^ second ^ (first >> 17) ^ (second >> 26);
    return random_state[1] + second;
}

static uint64_t random_below(uint64_t bound) {
    return (uint64_t)(((unsigned __int128)next_random() * bound) >> 64);
}

static void numbered_address(const struct ranges *ranges, uint64_t number, uint8_t *out) {
    unsigned position = 0;
    for (number %= ranges->total; number >= ranges->items[position].count; position++)
        number -= ranges->items[position].count;
    address_at(&ranges->items[position], ranges->family, number, out);
}

static void random_address(const struct ranges *ranges, uint8_t *out) {
    const struct range *range = &ranges->items[random_below(ranges->number)];
    address_at(range, ranges->family, random_below(range->count), out);
}

static void choose(const struct options *options, uint64_t number, struct flow *flow) {
    const struct ports *from = &options->source_ports, *to = &options->destination_ports;
    if (options->random) {
        random_address(&options->source, flow->source);
        random_address(&options->destination, flow->destination);
        flow->source_port = (uint16_t)(from->first + random_below(from->count));
        flow->destination_port = (uint16_t)(to->first + random_below(to->count));
        return;
    }
    flow->source_port = (uint16_t)(from->first + number % from->count);
    number /= from->count;
    numbered_address(&options->source, number, flow->source);
    number /= options->source.total;
    flow->destination_port = (uint16_t)(to->first + number % to->count);
    numbered_address(&options->destination, number / to->count, flow->destination);
}

static void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint64_t sum16(const uint8_t *bytes, size_t length) {
    uint64_t sum = 0;
    for (size_t position = 0; position + 1 < length; position += 2)
        sum += (uint32_t)bytes[position] << 8 | bytes[position + 1];
    return length & 1 ? sum + ((uint32_t)bytes[length - 1] << 8) : sum;
}

static uint16_t folded(uint64_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Everything that is the same in each frame. Returns the length of a frame. */
static size_t fill_template(const struct options *options, const uint8_t *from_mac, uint8_t *frame) {
    const bool v4 = options->source.family == AF_INET;
    const size_t transport = options->tcp ? TCP_BYTES : UDP_BYTES + options->payload;
    const size_t network = v4 ? IPV4_BYTES : IPV6_BYTES;
    uint8_t *ip = frame + ETH_HLEN, *above = ip + network;
    memset(frame, 0, FRAME_BYTES);
    memcpy(frame, options->to_mac, ETH_ALEN);
    memcpy(frame + ETH_ALEN, from_mac, ETH_ALEN);
    put16(frame + 2 * ETH_ALEN, v4 ? ETH_P_IP : ETH_P_IPV6);
    if (v4) {
        ip[0] = 0x45;
        put16(ip + 2, (uint32_t)(network + transport));
        put16(ip + 6, 0x4000); /* do not fragment: the identification may then be 0 (RFC 6864) */
        ip[8] = 64;
        ip[9] = options->tcp ? IPPROTO_TCP : IPPROTO_UDP;
    } else {
        ip[0] = 0x60;
        put16(ip + 4, (uint32_t)transport);
        ip[6] = options->tcp ? IPPROTO_TCP : IPPROTO_UDP;
        ip[7] = 64;
    }
    if (options->tcp) {
        above[12] = TCP_BYTES / 4 << 4;
        above[13] = 0x02; /* SYN */
        put16(above + 14, 64240);
    } else {
        put16(above + 4, (uint32_t)transport);
        for (uint64_t position = 0; position < options->payload; position++)
            above[UDP_BYTES + position] = (uint8_t)position;
    }
    return ETH_HLEN + network + transport;
}

/* `fixed`: sum over the transport bytes of the template and over the length and protocol of the pseudo-header. */
static void fill(const struct options *options, const struct flow *flow, uint64_t fixed, uint8_t *frame) {
    const bool v4 = options->source.family == AF_INET;
    const size_t width = v4 ? 4 : 16;
    uint8_t *ip = frame + ETH_HLEN, *addresses = ip + (v4 ? 12 : 8), *above = ip + (v4 ? IPV4_BYTES : IPV6_BYTES);
    memcpy(addresses, flow->source, width);
    memcpy(addresses + width, flow->destination, width);
    if (v4) {
        put16(ip + 10, 0);
        put16(ip + 10, folded(sum16(ip, IPV4_BYTES)));
    }
    put16(above, flow->source_port);
    put16(above + 2, flow->destination_port);
    const uint16_t checksum = folded(fixed + sum16(addresses, 2 * width) + flow->source_port + flow->destination_port);
    if (options->tcp)
        put16(above + 16, checksum);
    else
        put16(above + 6, checksum ? checksum : 0xffff); /* 0 would mean: none (RFC 768) */
}

static int open_socket(const struct options *options, uint8_t *mac) {
    const int descriptor = socket(AF_PACKET, SOCK_RAW, 0);
    if (descriptor < 0)
        fail(1, "a packet socket: %s%s", strerror(errno), errno == EPERM ? "; CAP_NET_RAW is needed" : "");
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", options->interface);
    if (ioctl(descriptor, SIOCGIFHWADDR, &request))
        fail(1, "--interface %s: %s", options->interface, strerror(errno));
    memcpy(mac, request.ifr_hwaddr.sa_data, ETH_ALEN);
    const struct sockaddr_ll where = {
        .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(options->interface),
    };
    if (bind(descriptor, (const struct sockaddr *)&where, sizeof where))
        fail(1, "--interface %s: %s", options->interface, strerror(errno));
    const int one = 1, send_buffer = 4 << 20;
    if (setsockopt(descriptor, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one))
        fail(1, "PACKET_QDISC_BYPASS: %s", strerror(errno));
    setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    return descriptor;
}

static void stay_on(unsigned cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fail(USAGE, "--cpu %u: %s", cpu, strerror(errno));
}

static void sleep_s(double seconds) {
    const struct timespec span = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&span, NULL);
}

/* How many packets may go out now; waits until it is at least one. With a rate a batch is at most a millisecond's worth. */
static unsigned due(const struct options *options, uint64_t done, double began_s) {
    uint64_t batch = BATCH;
    if (options->count && options->count - done < batch)
        batch = options->count - done;
    if (options->rate == 0)
        return (unsigned)batch;
    const double wait_s = began_s + (double)done / options->rate - now_s();
    if (wait_s > 0)
        sleep_s(wait_s < 0.1 ? wait_s : 0.1); /* in pieces, so that the end of the time is seen */
    const double open = (now_s() - began_s) * options->rate - (double)done;
    if (open < 0)
        return 0;
    return open + 1 < (double)batch ? (unsigned)(open + 1) : (unsigned)batch;
}

int main(int argc, char **argv) {
    static uint8_t frames[BATCH][FRAME_BYTES];
    static struct iovec pieces[BATCH];
    static struct mmsghdr messages[BATCH];
    const struct options options = read_options(argc, argv);
    uint8_t mac[ETH_ALEN];
    const int descriptor = open_socket(&options, mac);
    if (options.cpu >= 0)
        stay_on((unsigned)options.cpu);
    random_state[0] = options.seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    random_state[1] = options.seed ^ UINT64_C(0xd1b54a32d192ed03);
    for (int round = 0; round < 16; round++)
        next_random();
    uint64_t fixed = 0;
    for (unsigned slot = 0; slot < BATCH; slot++) {
        const size_t length = fill_template(&options, mac, frames[slot]);
        const size_t headers = ETH_HLEN + (options.source.family == AF_INET ? IPV4_BYTES : IPV6_BYTES);
        fixed = sum16(frames[slot] + headers, length - headers) + (length - headers) + (options.tcp ? IPPROTO_TCP : IPPROTO_UDP);
        pieces[slot] = (struct iovec){.iov_base = frames[slot], .iov_len = length};
        messages[slot].msg_hdr = (struct msghdr){.msg_iov = &pieces[slot], .msg_iovlen = 1};
    }
    stop_on_signals();

    uint64_t sent = 0, refused = 0;
    const double began_s = now_s();
    double ended_s = began_s;
    while (!stopped && (!options.count || sent + refused < options.count)) {
        const unsigned batch = due(&options, sent + refused, began_s);
        for (unsigned slot = 0; slot < batch; slot++) {
            struct flow flow;
            choose(&options, options.first_flow + sent + refused + slot, &flow);
            fill(&options, &flow, fixed, frames[slot]);
        }
        for (unsigned done = 0; done < batch && !stopped;) {
            const int taken = sendmmsg(descriptor, messages + done, batch - done, 0);
            if (taken > 0) {
                sent += (unsigned)taken;
                done += (unsigned)taken;
            } else if (errno == ENOBUFS) { /* this one is lost */
                refused++;
                done++;
            } else if (errno != EINTR && errno != EAGAIN) {
                fail(1, "sending through %s: %s", options.interface, strerror(errno));
            }
        }
        ended_s = now_s();
        if (options.seconds > 0 && ended_s - began_s >= options.seconds)
            break;
    }
    const double seconds = ended_s - began_s;
    printf("{\"sent\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"seconds\": %.6f, \"rate_per_s\": %.1f, "
           "\"began_s\": %.6f, \"ended_s\": %.6f, \"cpu_s\": %.6f}\n",
           sent, refused, seconds, seconds > 0 ? (double)sent / seconds : 0.0, began_s, ended_s, clock_s(CLOCK_PROCESS_CPUTIME_ID));
    return 0;
}
