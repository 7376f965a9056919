/* Pairs: each connection sends to its partner, who is connected to the other server, at a fixed rate for all together.
 *
 * A server's first message tells a connection the name that others reach it by; a message out is that name, a line feed, and
 * the payload, and the partner gets the payload, once and in order. The clock sends, not the answers: a server that is late
 * gets no rest, and latency counts from when a message was due, for all that were due in the window.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>

#include "client.h"

#define MAX_NAME 256
#define MAX_WAITING 4096 /* of one connection's messages */

struct pair_side {
    char name[MAX_NAME];
    size_t name_size;
    uint32_t sent, arrived; /* what it sent; what its partner got of that */
    uint64_t due[MAX_WAITING];
};

static struct pair_side *sides;
static uint8_t *text;
static long named_count;
static uint64_t next_due;
static double interval_ns;
static uint64_t due_count, first_due;

static void message(struct connection *connection, int opcode, const uint8_t *data, size_t size)
{
    struct pair_side *side = &sides[connection->number], *partner = &sides[connection->number ^ 1];
    if (!side->name_size) {
        if (opcode != OPCODE_TEXT || !size || size > MAX_NAME) fail("connection %d: no name", connection->number);
        memcpy(side->name, data, size);
        side->name_size = size;
        named_count++;
        return;
    }
    if (partner->arrived == partner->sent) fail("connection %d: a message that nobody sent", connection->number);
    payload_check(connection, opcode, data, size, (uint32_t)connection->number ^ 1, partner->arrived);
    stats_answer_due(partner->due[partner->arrived++ % MAX_WAITING], clock_ns);
}

static void send_one(struct connection *connection, uint64_t due)
{
    struct pair_side *side = &sides[connection->number], *partner = &sides[connection->number ^ 1];
    if (side->sent - side->arrived == MAX_WAITING)
        fail("connection %d: %d messages have not arrived", connection->number, MAX_WAITING);
    side->due[side->sent % MAX_WAITING] = due;
    memcpy(text, partner->name, partner->name_size);
    text[partner->name_size] = '\n';
    payload_prefix(text + partner->name_size + 1, (uint32_t)connection->number, side->sent++);
    for (long i = PREFIX_SIZE; i < options.size; i++) text[partner->name_size + 1 + (size_t)i] = (uint8_t)('a' + i % 26);
    awaited_count++;
    websocket_send(connection, OPCODE_TEXT, text, partner->name_size + 1 + (size_t)options.size);
}

static void run_until(uint64_t end)
{
    uint64_t now;
    while ((now = now_ns()) < end) {
        for (; next_due <= now && next_due < end; next_due = first_due + (uint64_t)((double)++due_count * interval_ns))
            send_one(&connections[due_count % (uint64_t)options.connections], next_due);
        net_wait(next_due < end ? next_due : end);
    }
}

static void run(void)
{
    uint64_t end = now_ns() + (uint64_t)(options.timeout * 1e9);
    if (options.connections % 2) fail("pairs need an even number of connections");
    if (options.rate <= 0) fail("--rate is missing");
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    sides = must_alloc(NULL, (size_t)options.connections * sizeof *sides);
    memset(sides, 0, (size_t)options.connections * sizeof *sides);
    text = must_alloc(NULL, MAX_NAME + 1 + (size_t)options.size);
    while (named_count < options.connections) {
        net_connect_more();
        net_turn(100);
        if (now_ns() > end) fail("only %ld of %ld connections were named", named_count, options.connections);
    }
    interval_ns = 1e9 / options.rate;
    first_due = next_due = now_ns();
    run_until(first_due + (uint64_t)(options.warm * 1e9));
    report("measuring");
    stats_open_window();
    run_until(now_ns() + (uint64_t)(options.seconds * 1e9));
    stats_close_window();
    report("measured");
    drain();
    stats_print(0);
}

const struct mode mode_pairs = {.name = "pairs", .websocket = true, .run = run, .message = message};
