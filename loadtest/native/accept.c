/* The reference of the packet path: accepts all packets of a queue unread.
 *
 * Its rate is the maximum of the kernel and the queue. The caller gives queue length, copy range, receive buffer and flags, so that they
 * are those of the compared worker. It prints "ready" when the queue is bound.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { USAGE = 2, MESSAGE_BYTES = 8192, SOL_NETLINK_NUMBER = 270, NO_ENOBUFS = 5 };

struct pending {
    struct nfq_q_handle *queue;
    uint32_t limit, count, last_id;
};

static void flush(struct pending *pending) {
    if (pending->count)
        nfq_set_verdict_batch(pending->queue, pending->last_id, NF_ACCEPT);
    pending->count = 0;
}

static int on_packet(struct nfq_q_handle *queue, struct nfgenmsg *message, struct nfq_data *data, void *context) {
    (void)message;
    struct pending *pending = context;
    const struct nfqnl_msg_packet_hdr *header = nfq_get_msg_packet_hdr(data);
    if (!header)
        return 0;
    const uint32_t id = ntohl(header->packet_id);
    if (pending->limit == 1)
        return nfq_set_verdict(queue, id, NF_ACCEPT, 0, NULL);
    pending->last_id = id;
    if (++pending->count == pending->limit)
        flush(pending);
    return 0;
}

static void fail(const char *what) {
    fprintf(stderr, "accept: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long argument(char **argv, int position, long least) {
    char *end;
    const long value = strtol(argv[position], &end, 10);
    if (*end || end == argv[position] || value < least || value > INT32_MAX) {
        fprintf(stderr, "accept: %s: not a number from %ld\n", argv[position], least);
        exit(USAGE);
    }
    return value;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fputs("usage: accept QUEUE BATCH QUEUE_PACKETS COPY_BYTES RECEIVE_BUFFER_BYTES\n"
              "Accept every packet of an NFQUEUE; BATCH 1: one verdict for each, otherwise one for up to so many. SIGTERM ends it.\n",
              stderr);
        return USAGE;
    }
    const long number = argument(argv, 1, 0), batch = argument(argv, 2, 1), length = argument(argv, 3, 1);
    const long copied = argument(argv, 4, 1), buffer = argument(argv, 5, 1);
    struct pending pending = {.limit = (uint32_t)batch};
    struct nfq_handle *handle = nfq_open();
    if (!handle)
        fail("opening netfilter's netlink socket");
    pending.queue = nfq_create_queue(handle, (uint16_t)number, on_packet, &pending);
    if (!pending.queue)
        fail("binding the queue");
    if (nfq_set_mode(pending.queue, NFQNL_COPY_PACKET, (uint32_t)copied) || nfq_set_queue_maxlen(pending.queue, (uint32_t)length))
        fail("copy range and length of the queue");
    if (nfq_set_queue_flags(pending.queue, NFQA_CFG_F_GSO, NFQA_CFG_F_GSO))
        fail("the GSO flag");
    const int descriptor = nfq_fd(handle), one = 1, bytes = (int)buffer;
    if (setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes))
        fail("the receive buffer");
    if (setsockopt(descriptor, SOL_NETLINK_NUMBER, NO_ENOBUFS, &one, sizeof one))
        fail("NETLINK_NO_ENOBUFS");
    puts("ready");
    fflush(stdout);
    static char message[MESSAGE_BYTES] __attribute__((aligned(8)));
    for (;;) {
        /* Without a wait while packets are pending, which would wait too. */
        const ssize_t read = recv(descriptor, message, sizeof message, pending.count ? MSG_DONTWAIT : 0);
        if (read > 0)
            nfq_handle_packet(handle, message, (int)read);
        else if (read < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            flush(&pending);
        else if (read < 0 && errno != EINTR)
            fail("reading");
    }
}
