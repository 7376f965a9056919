/* The load client: one thread, one epoll, and a mode that says what to send and what to expect.
 *
 * client.c reads the options and prints; net.c owns sockets, buffers and the loop; websocket.c the handshake, frames and
 * the payloads that are checked; stats.c the window that is measured; mode_*.c one kind of load each.
 * Whatever a server answers wrongly ends the run with one line on stderr and exit status 1: a rate of wrong answers is no rate.
 */
#ifndef BENCHMARKS_CLIENT_H
#define BENCHMARKS_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdnoreturn.h>

#include "wire.h"

#define MAX_SENDERS 16
#define MAX_DEPTH 1024

struct options {
    const char *mode;
    const char *path;
    const char *body; /* expected of every HTTP response; NULL: only body_length is checked */
    const char *body_file; /* the same, in a file */
    long port, second_port, connections, size, senders, depth, outstanding, body_length;
    double warm, seconds, timeout, rate;
    bool binary, browser_headers, upload, new_paths;
};

enum state { IDLE, CONNECTING, HANDSHAKING, OPEN, LOST };

struct connection {
    int fd;
    int number;
    enum state state;
    uint8_t *in; /* bytes of an answer that is not complete yet */
    size_t in_size, in_space;
    uint8_t *out; /* bytes that the socket did not take yet */
    size_t out_at, out_size, out_space;
    uint64_t sent_at;
    uint32_t sequence;
    uint32_t *expected; /* fan-out: next sequence of each sender */
};

struct mode {
    const char *name;
    bool websocket;
    void (*run)(void);                                     /* does all, from the first connection on; or NULL, and: */
    void (*start)(void);                                   /* all connections are open */
    void (*opened)(struct connection *);                   /* may be NULL */
    size_t (*answer)(struct connection *, uint8_t *, size_t); /* HTTP: returns bytes used, 0 for "more, please" */
    void (*message)(struct connection *, int opcode, const uint8_t *, size_t); /* WebSocket */
    void (*lost)(struct connection *, const char *why);    /* NULL: a lost connection ends the run */
    void (*command)(const char *);                         /* a line on stdin; NULL: stdin is not read */
};

extern struct options options;
extern const struct mode *mode;
extern const struct mode mode_echo, mode_fanout, mode_http, mode_idle, mode_pairs, mode_storm;

/* client.c */
void report(const char *event);
void drain(void);

/* net.c */
extern struct connection *connections;
extern long open_count, lost_count, reconnect_count;
extern uint64_t clock_ns; /* read once for each piece of input */
noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void net_start(void);
void net_turn(int timeout_ms);
void net_wait(uint64_t until); /* a turn that ends at this time, or before */
void net_connect_more(void);
long net_connecting(void); /* connections that were begun and are not open yet */
void connection_send(struct connection *, const void *, size_t);
void connection_reopen(struct connection *);
void connection_lost(struct connection *, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* websocket.c */
#define PREFIX_SIZE 16
void websocket_handshake(struct connection *);
size_t websocket_handshake_answer(struct connection *, uint8_t *, size_t);
size_t websocket_frames(struct connection *, uint8_t *, size_t);
void websocket_send(struct connection *, int opcode, const uint8_t *, size_t);
void payload_start(void);
void payload_prefix(uint8_t out[PREFIX_SIZE], uint32_t sender, uint32_t sequence);
void payload_send(struct connection *, uint32_t sender, uint32_t sequence);
void payload_check(struct connection *, int opcode, const uint8_t *, size_t, uint32_t sender, uint32_t sequence);
uint32_t payload_sender(const uint8_t *);

/* stats.c */
extern uint64_t total_count; /* since the start; moves as long as answers come */
extern long awaited_count;   /* answers that a server still owes: whoever sends adds, stats_answer subtracts */
extern bool draining;        /* the window is closed: send nothing more */
void stats_open_window(void);
void stats_close_window(void);
bool stats_empty(void);
void stats_answer(uint64_t latency_ns);
void stats_answer_due(uint64_t due, uint64_t now); /* counts if it was due in the window, whenever it comes */
void stats_body(size_t size); /* bytes of HTTP bodies that came */
void stats_print(double connect_seconds);

#endif
