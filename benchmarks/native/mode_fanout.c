/* Fan-out: the first connections of a room send, all of its members receive.
 *
 * A sender has up to `depth` messages under way; a message is done when every member has it, and only then makes room for
 * the next. Each member must get each sender's messages once and in order.
 */
#include "client.h"

static uint64_t sent_at[MAX_SENDERS][MAX_DEPTH];
static long missing[MAX_SENDERS][MAX_DEPTH]; /* members that wait for it */

static void send_next(uint32_t sender)
{
    struct connection *connection = &connections[sender];
    uint32_t sequence = connection->sequence++, slot = sequence % (uint32_t)options.depth;
    missing[sender][slot] = options.connections;
    awaited_count += options.connections;
    payload_send(connection, sender, sequence);
    sent_at[sender][slot] = connection->sent_at;
}

static void start(void)
{
    for (long i = 0; i < options.connections; i++) {
        size_t size = (size_t)options.senders * sizeof *connections[i].expected;
        connections[i].expected = must_alloc(NULL, size);
        memset(connections[i].expected, 0, size);
    }
    for (long depth = 0; depth < options.depth; depth++)
        for (long sender = 0; sender < options.senders; sender++) send_next((uint32_t)sender);
}

static void message(struct connection *connection, int opcode, const uint8_t *data, size_t size)
{
    uint32_t sender = size >= PREFIX_SIZE ? payload_sender(data) : 0, sequence, slot;
    if (sender >= (uint32_t)options.senders) fail("connection %d: no such sender: %u", connection->number, sender);
    sequence = connection->expected[sender];
    payload_check(connection, opcode, data, size, sender, sequence);
    if (sequence >= connections[sender].sequence) fail("connection %d: a message that was not sent", connection->number);
    connection->expected[sender]++;
    slot = sequence % (uint32_t)options.depth;
    stats_answer(clock_ns - sent_at[sender][slot]);
    if (!--missing[sender][slot] && !draining) send_next(sender);
}

const struct mode mode_fanout = {.name = "fanout", .websocket = true, .start = start, .message = message};
