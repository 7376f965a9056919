/* Echo: each connection has one message outstanding, and checks the answer before it sends the next. */
#include "client.h"

static void start(void)
{
    awaited_count = options.connections;
    for (long i = 0; i < options.connections; i++) payload_send(&connections[i], (uint32_t)i, connections[i].sequence);
}

static void message(struct connection *connection, int opcode, const uint8_t *data, size_t size)
{
    payload_check(connection, opcode, data, size, (uint32_t)connection->number, connection->sequence);
    stats_answer(clock_ns - connection->sent_at);
    connection->sequence++;
    if (draining) return;
    awaited_count++;
    payload_send(connection, (uint32_t)connection->number, connection->sequence);
}

const struct mode mode_echo = {.name = "echo", .websocket = true, .start = start, .message = message};
