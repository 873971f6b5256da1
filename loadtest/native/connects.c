/* Times connect(): opens TCP connections one after the other, each from another port, and resets them; or is the server for that.
 *
 * Only the call itself is timed. A connection is ended by a reset (SO_LINGER with no time), so that nothing lingers at either end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { USAGE = 2, MAX_CONNECTS = 1000000, LIMIT_MS = 3000 };

static const char help[] =
    "usage: connects SOURCE DESTINATION PORT COUNT RATE      open COUNT connections, RATE a second, from an address to another\n"
    "       connects --serve ADDRESS PORT                    accept connections, one after the other, until SIGTERM\n"
    "\n"
    "Reports one JSON object on standard output: failed (refused, or no answer within three seconds), seconds from the first to the last,\n"
    "and connect_ns: what each call took that succeeded, in order. The server prints \"ready\" when it listens.\n";

static volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static void fail(int code, const char *format, ...) {
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
    return 0;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
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

/* Nanoseconds that connect() took, or -1. Waits for an answer without blocking for ever. */
static int64_t connect_once(const struct sockaddr_storage *from, const struct sockaddr_storage *to, socklen_t length) {
    int fd = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), error = 0;
    struct timeval limit = {.tv_sec = LIMIT_MS / 1000};
    if (fd < 0 || bind(fd, (const struct sockaddr *)from, length) || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit))
        fail(1, "making a socket: %s", strerror(errno));
    int64_t began = now_ns();
    error = connect(fd, (const struct sockaddr *)to, length);
    int64_t took = now_ns() - began;
    reset(fd);
    return error ? -1 : took;
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
    if (argc != 6)
        fail(USAGE, "SOURCE, DESTINATION, PORT, COUNT and RATE are needed; --help explains them");
    struct sockaddr_storage from, to;
    socklen_t length = address(argv[1], 0, &from);
    if (address(argv[2], (uint16_t)number(argv[3], 1, 65535, "PORT"), &to) != length)
        fail(USAGE, "SOURCE and DESTINATION are of different families");
    long count = number(argv[4], 1, MAX_CONNECTS, "COUNT"), rate = number(argv[5], 1, 1000000, "RATE"), failed = 0, done = 0;
    int64_t *took = malloc((size_t)count * sizeof *took);
    if (!took)
        fail(1, "out of memory");
    int64_t began = now_ns();
    for (long turn = 0; turn < count && !stopped; turn++) {
        int64_t due = began + turn * 1000000000 / rate, left = due - now_ns();
        if (left > 0) {
            struct timespec pause = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        }
        int64_t one = connect_once(&from, &to, length);
        if (one < 0)
            failed++;
        else
            took[done++] = one;
    }
    printf("{\"failed\": %ld, \"seconds\": %.6f, \"connect_ns\": [", failed, (double)(now_ns() - began) / 1e9);
    for (long turn = 0; turn < done; turn++)
        printf("%s%" PRId64, turn ? ", " : "", took[turn]);
    puts("]}");
    free(took);
    return 0;
}
