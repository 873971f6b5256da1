/* Times connect(): opens TCP connections, each from another port, and resets them; or is the server for that.
 *
 * Only the call itself is timed. A connection is ended by a reset (SO_LINGER with no time), so that nothing lingers at either end.
 *
 * One after the other, a connection that takes long keeps the next ones from being opened, so that a bad moment is timed once. That is
 * right where nothing else goes on. Under a load the connections are offered: each is opened when it is due, whatever became of those
 * before, and a bad moment is timed as often as it is met.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { USAGE = 2, MAX_CONNECTS = 1000000, LIMIT_S = 3, EVENTS = 64, FIRST_PORT = 10000, PORTS = 50000 };
#define SECOND_NS INT64_C(1000000000)

static const char help[] =
    "usage: connects SOURCE DESTINATION PORT COUNT RATE            open COUNT connections, RATE a second at most, one after the other\n"
    "       connects --offered SOURCE DESTINATION PORT COUNT RATE  the same, but each when it is due, answered or not those before\n"
    "       connects --serve ADDRESS PORT                          accept connections until SIGTERM\n"
    "\n"
    "Reports one JSON object on standard output: failed (refused, or no answer within three seconds), seconds from the first call to the\n"
    "last one or to the last success, whichever was later, and connect_ns: what each took that succeeded, in the order of their ends.\n"
    "The server prints \"ready\" when it listens.\n";

static volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

__attribute__((format(printf, 2, 3), noreturn)) static void fail(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("connects: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(code);
}

static long number(const char *text, long least, long most, const char *name) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < least || value > most)
        fail(USAGE, "%s: '%s' is refused; allowed: %ld to %ld", name, text, least, most);
    return value;
}

static socklen_t address(const char *text, uint16_t port, struct sockaddr_storage *out) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return sizeof *v6;
    }
    fail(USAGE, "'%s' is not an IP address", text);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

static void reset(int fd) {
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

static int serve(const char *text, const char *port) {
    struct sockaddr_storage here;
    socklen_t length = address(text, (uint16_t)number(port, 1, 65535, "PORT"), &here);
    int on = 1, fd = socket(here.ss_family, SOCK_STREAM, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || bind(fd, (struct sockaddr *)&here, length) || listen(fd, 4096))
        fail(1, "listening on %s port %s: %s", text, port, strerror(errno));
    puts("ready");
    fflush(stdout);
    while (!stopped) {
        int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (accepted < 0)
            continue;
        /* Until the client has ended it: a reset from here could overtake the return of its connect(). */
        struct timeval limit = {.tv_sec = 1};
        char byte;
        setsockopt(accepted, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (recv(accepted, &byte, 1, 0) < 0)
            errno = 0;
        reset(accepted);
    }
    return 0;
}

struct load {
    struct sockaddr_storage from, to;
    socklen_t length;
    long count, rate, failed, done;
    uint64_t port;
    int64_t began, ended, *took;
};

static int64_t due(const struct load *load, long turn) {
    return load->began + turn * SECOND_NS / load->rate;
}

/* Ports are taken in turn: the system's own choice comes back to some of them soon, and a connection that connection tracking has known a
 * moment ago is not a new one. The first one is another one each time the program runs. */
static int bound_socket(struct load *load, int flags) {
    int fd = socket(load->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        fail(1, "making a socket: %s", strerror(errno));
    for (int tries = 0; tries < PORTS; tries++) {
        const uint16_t port = htons((uint16_t)(FIRST_PORT + load->port++ % PORTS));
        if (load->from.ss_family == AF_INET)
            ((struct sockaddr_in *)&load->from)->sin_port = port;
        else
            ((struct sockaddr_in6 *)&load->from)->sin6_port = port;
        if (!bind(fd, (const struct sockaddr *)&load->from, load->length))
            return fd;
        if (errno != EADDRINUSE)
            break;
    }
    fail(1, "binding a socket: %s", strerror(errno));
}

static void succeeded(struct load *load, int64_t began, int64_t ended) {
    load->took[load->done++] = ended - began;
    load->ended = ended;
}

static void one_after_the_other(struct load *load) {
    const struct timeval limit = {.tv_sec = LIMIT_S};
    for (long turn = 0; turn < load->count && !stopped; turn++) {
        int64_t left = due(load, turn) - now_ns();
        if (left > 0) {
            struct timespec pause = {.tv_sec = left / SECOND_NS, .tv_nsec = left % SECOND_NS};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        }
        int fd = bound_socket(load, 0);
        if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit))
            fail(1, "limiting a connect: %s", strerror(errno));
        int64_t began = load->ended = now_ns();
        int error = connect(fd, (const struct sockaddr *)&load->to, load->length);
        int64_t ended = now_ns();
        reset(fd);
        if (error)
            load->failed++;
        else
            succeeded(load, began, ended);
    }
}

struct attempt {
    int fd; /* -1: at its end */
    int64_t began;
};

static void finish(struct load *load, struct attempt *attempt) {
    int64_t ended = now_ns();
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error)
        load->failed++;
    else
        succeeded(load, attempt->began, ended);
    reset(attempt->fd);
    attempt->fd = -1;
}

static void offered(struct load *load) {
    struct attempt *attempts = malloc((size_t)load->count * sizeof *attempts);
    int ready = epoll_create1(EPOLL_CLOEXEC);
    struct rlimit files;
    if (!attempts || ready < 0 || getrlimit(RLIMIT_NOFILE, &files))
        fail(1, "preparing: %s", strerror(errno));
    files.rlim_cur = files.rlim_max; /* RATE times three seconds may be open at a time */
    setrlimit(RLIMIT_NOFILE, &files);
    long opened = 0, oldest = 0;
    while ((opened < load->count || oldest < opened) && !stopped) {
        for (; opened < load->count && due(load, opened) <= now_ns(); opened++) {
            struct attempt *attempt = &attempts[opened];
            struct epoll_event wanted = {.events = EPOLLOUT, .data.ptr = attempt};
            attempt->fd = bound_socket(load, SOCK_NONBLOCK);
            attempt->began = now_ns();
            if (load->ended < attempt->began)
                load->ended = attempt->began;
            if (connect(attempt->fd, (const struct sockaddr *)&load->to, load->length) && errno != EINPROGRESS) {
                load->failed++;
                reset(attempt->fd);
                attempt->fd = -1;
            } else if (epoll_ctl(ready, EPOLL_CTL_ADD, attempt->fd, &wanted)) {
                fail(1, "waiting for a connection: %s", strerror(errno));
            }
        }
        int64_t next = opened < load->count ? due(load, opened) : INT64_MAX;
        for (; oldest < opened; oldest++) {
            struct attempt *attempt = &attempts[oldest];
            int64_t limit = attempt->began + LIMIT_S * SECOND_NS;
            if (attempt->fd >= 0 && limit > now_ns()) {
                next = limit < next ? limit : next;
                break;
            }
            if (attempt->fd >= 0) {
                load->failed++;
                reset(attempt->fd);
            }
        }
        int64_t left = next == INT64_MAX ? 0 : next - now_ns();
        struct timespec pause = {.tv_sec = left > 0 ? left / SECOND_NS : 0, .tv_nsec = left > 0 ? left % SECOND_NS : 0};
        struct epoll_event events[EVENTS];
        int number_ready = epoll_pwait2(ready, events, EVENTS, &pause, NULL);
        for (int position = 0; position < number_ready; position++)
            finish(load, events[position].data.ptr);
    }
    free(attempts);
    close(ready);
}

int main(int argc, char **argv) {
    struct sigaction action;
    memset(&action, 0, sizeof action); /* no SA_RESTART: a signal ends what waits */
    action.sa_handler = stop;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_TIMERSLACK, 1);
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(help, stdout);
        return 0;
    }
    if (argc == 4 && !strcmp(argv[1], "--serve"))
        return serve(argv[2], argv[3]);
    const bool offer = argc > 1 && !strcmp(argv[1], "--offered");
    char **words = argv + 1 + offer;
    if (argc - offer != 6)
        fail(USAGE, "SOURCE, DESTINATION, PORT, COUNT and RATE are needed; --help explains them");
    struct load load = {.length = 0};
    load.length = address(words[0], 0, &load.from);
    if (address(words[1], (uint16_t)number(words[2], 1, 65535, "PORT"), &load.to) != load.length)
        fail(USAGE, "SOURCE and DESTINATION are of different families");
    load.count = number(words[3], 1, MAX_CONNECTS, "COUNT");
    load.rate = number(words[4], 1, 1000000, "RATE");
    load.took = malloc((size_t)load.count * sizeof *load.took);
    if (!load.took)
        fail(1, "out of memory");
    load.began = load.ended = now_ns();
    load.port = (uint64_t)load.began / 1000;
    if (offer)
        offered(&load);
    else
        one_after_the_other(&load);
    printf("{\"failed\": %ld, \"seconds\": %.6f, \"connect_ns\": [", load.failed, (double)(load.ended - load.began) / 1e9);
    for (long turn = 0; turn < load.done; turn++)
        printf("%s%" PRId64, turn ? ", " : "", load.took[turn]);
    puts("]}");
    free(load.took);
    return 0;
}
