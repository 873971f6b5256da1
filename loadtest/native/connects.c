/* Opens TCP connections one after the other and reports the duration of connect(), or serves such connections.
 *
 * The client uses the next source port for each connection, so that no two connections are the same flow before all ports were used. It
 * closes with a reset, so that neither end keeps the connection in TIME_WAIT and the port is free again. The duration is that of connect()
 * alone: the socket is created and bound before.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum { BACKLOG = 4096, FIRST_PORT = 1024, PORTS = 65536 - FIRST_PORT, MAX_SAMPLES = 2000000, MAX_SECONDS = 600 };

static const char help[] =
    "usage: connects --serve ADDRESS --port N\n"
    "       connects --from ADDRESS --to ADDRESS --port N {--count N | --seconds S} [options]\n"
    "\n"
    "The first form accepts connections and closes them; it prints \"ready\" once it listens. The second opens connections, one after the\n"
    "other, and closes each with a reset. It reports one JSON object on standard output: connected, failed, late (begun after their time,\n"
    "because an earlier one took so long), seconds, cpu_s, next_port, and connect_ns: nanoseconds that connect() took, of each that was\n"
    "connected. With --rate one that is late counts from when it was due.\n"
    "\n"
    "  --count N         stop after this number of connections, at most 2000000\n"
    "  --seconds S       stop after this time, at most 600\n"
    "  --rate N          connections per second; default: each as soon as the previous one is closed\n"
    "  --first-port N    source port of the first one, 1024 (default) to 65535; after the last port it continues with 1024\n"
    "  --timeout-ms N    time limit of a connection, which has failed after it; default 1000\n"
    "\n"
    "SIGINT and SIGTERM end it early, with the report.\n";

struct options {
    const char *from, *to;
    bool serve;
    uint16_t port;
    uint64_t count, first_port, timeout_ms;
    double seconds, rate;
};

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static double read_number(const char *flag, const char *text, double least, double most) {
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most))
        fail(USAGE, "%s %s: not a number from %g to %g", flag, text, least, most);
    return value;
}

/* Returns the length of the address. */
static socklen_t read_address(const char *flag, const char *text, uint16_t port, struct sockaddr_storage *out) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        fail(USAGE, "%s %s: not an address", flag, text);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    return sizeof *v6;
}

static struct options read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"serve", 1, 0, 'v'}, {"from", 1, 0, 'f'}, {"to", 1, 0, 't'}, {"port", 1, 0, 'p'}, {"count", 1, 0, 'c'},
        {"seconds", 1, 0, 's'}, {"rate", 1, 0, 'r'}, {"first-port", 1, 0, 'F'}, {"timeout-ms", 1, 0, 'm'}, {"help", 0, 0, 'h'},
        {0, 0, 0, 0},
    };
    struct options options = {.first_port = FIRST_PORT, .timeout_ms = 1000};
    for (int letter; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (letter) {
        case 'v': options.serve = true; options.to = optarg; break;
        case 'f': options.from = optarg; break;
        case 't': options.to = optarg; break;
        case 'p': options.port = (uint16_t)read_number("--port", optarg, 1, 65535); break;
        case 'c': options.count = (uint64_t)read_number("--count", optarg, 1, MAX_SAMPLES); break;
        case 's': options.seconds = read_number("--seconds", optarg, 0.001, MAX_SECONDS); break;
        case 'r': options.rate = read_number("--rate", optarg, 0.001, 1e6); break;
        case 'F': options.first_port = (uint64_t)read_number("--first-port", optarg, FIRST_PORT, 65535); break;
        case 'm': options.timeout_ms = (uint64_t)read_number("--timeout-ms", optarg, 1, 60000); break;
        case 'h': fputs(help, stdout); exit(0);
        default: exit(USAGE);
        }
    }
    if (optind != argc)
        fail(USAGE, "%s: unexpected", argv[optind]);
    if (!options.port || !options.to || (!options.serve && !options.from))
        fail(USAGE, "--port and either --serve or both --from and --to must be given; see --help");
    if (options.serve && options.from)
        fail(USAGE, "--serve and --from exclude each other");
    if (!options.serve && !options.count && options.seconds == 0)
        fail(USAGE, "an end must be given: --count or --seconds");
    return options;
}

static int serve(const struct options *options) {
    struct sockaddr_storage address;
    const socklen_t length = read_address("--serve", options->to, options->port, &address);
    const int listener = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(listener, (const struct sockaddr *)&address, length) || listen(listener, BACKLOG))
        fail(1, "--serve %s --port %u: %s", options->to, options->port, strerror(errno));
    puts("ready");
    fflush(stdout);
    while (!stopped) {
        const int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (accepted >= 0)
            close(accepted);
        else if (errno != EINTR && errno != ECONNABORTED)
            fail(1, "accepting: %s", strerror(errno));
    }
    return 0;
}

static int bound_socket(const struct options *options, struct sockaddr_storage *from, socklen_t length, uint64_t number) {
    static const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    const struct timeval limit = {
        .tv_sec = (time_t)(options->timeout_ms / 1000), .tv_usec = (suseconds_t)(options->timeout_ms % 1000 * 1000),
    };
    const int one = 1, descriptor = socket(from->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const uint16_t port = htons((uint16_t)(FIRST_PORT + (options->first_port - FIRST_PORT + number) % PORTS));
    if (from->ss_family == AF_INET)
        ((struct sockaddr_in *)from)->sin_port = port;
    else
        ((struct sockaddr_in6 *)from)->sin6_port = port;
    if (descriptor < 0 || setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) ||
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) || /* it bounds connect() too: socket(7) */
        bind(descriptor, (const struct sockaddr *)from, length))
        fail(1, "--from %s: a socket with source port %u: %s", options->from, ntohs(port), strerror(errno));
    return descriptor;
}

static void sleep_until(int64_t when_ns) {
    const struct timespec moment = {.tv_sec = (time_t)(when_ns / 1000000000), .tv_nsec = (long)(when_ns % 1000000000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL);
}

static void report(const uint32_t *samples, uint64_t connected, uint64_t failed, uint64_t late, int64_t elapsed_ns, uint64_t next_port) {
    printf("{\"connected\": %" PRIu64 ", \"failed\": %" PRIu64 ", \"late\": %" PRIu64 ", \"seconds\": %.6f, \"cpu_s\": %.6f, "
           "\"next_port\": %" PRIu64 ", \"connect_ns\": [",
           connected, failed, late, (double)elapsed_ns / 1e9, (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e9, next_port);
    for (uint64_t number = 0; number < connected; number++)
        printf("%s%" PRIu32, number ? "," : "", samples[number]);
    puts("]}");
}

static int open_connections(const struct options *options) {
    struct sockaddr_storage from, to;
    const socklen_t length = read_address("--from", options->from, 0, &from);
    read_address("--to", options->to, options->port, &to);
    if (from.ss_family != to.ss_family)
        fail(USAGE, "--from and --to are of different families");
    const uint64_t most = options->count ? options->count : MAX_SAMPLES;
    uint32_t *samples = calloc(most, sizeof *samples);
    if (!samples)
        fail(1, "no memory for %" PRIu64 " samples", most);
    prctl(PR_SET_TIMERSLACK, 1UL); /* a wait with --rate ends when it should */
    uint64_t number = 0, connected = 0, failed = 0, late = 0;
    const int64_t begun_ns = clock_ns(CLOCK_MONOTONIC);
    const int64_t end_ns = options->seconds > 0 ? begun_ns + (int64_t)(options->seconds * 1e9) : INT64_MAX;
    int64_t now_ns = begun_ns;
    while (!stopped && number < most && now_ns < end_ns) {
        const int descriptor = bound_socket(options, &from, length, number);
        const int64_t due_ns = options->rate > 0 ? begun_ns + (int64_t)((double)number / options->rate * 1e9) : 0;
        bool over = false;
        int64_t start_ns = clock_ns(CLOCK_MONOTONIC);
        if (options->rate > 0 && due_ns > start_ns) {
            sleep_until(due_ns < end_ns ? due_ns : end_ns);
            start_ns = clock_ns(CLOCK_MONOTONIC); /* a late wake-up is not part of the latency */
            over = stopped || due_ns >= end_ns;
        } else if (options->rate > 0) {
            late += number > 0;
            start_ns = due_ns;
        }
        if (over) {
            close(descriptor);
            break;
        }
        const bool ok = !connect(descriptor, (const struct sockaddr *)&to, length);
        now_ns = clock_ns(CLOCK_MONOTONIC);
        if (ok)
            samples[connected++] = (uint32_t)(now_ns - start_ns < UINT32_MAX ? now_ns - start_ns : UINT32_MAX);
        else if (errno == EINTR)
            stopped = 1;
        else
            failed++;
        close(descriptor);
        number++;
    }
    report(samples, connected, failed, late, clock_ns(CLOCK_MONOTONIC) - begun_ns,
           FIRST_PORT + (options->first_port - FIRST_PORT + number) % PORTS);
    free(samples);
    return 0;
}

int main(int argc, char **argv) {
    const struct options options = read_options(argc, argv);
    stop_on_signals();
    return options.serve ? serve(&options) : open_connections(&options);
}
