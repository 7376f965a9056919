/* Storm: open WebSockets as fast as the server takes them, hold them all, and prove at the end that each joined the group.
 *
 * A handshake's 101 is the end of its connect consumer. The first connections warm the server up; the window then lasts
 * `seconds`, or until `connections` are open. Once it is closed, one message from the first connection must reach all.
 */
#include "client.h"

#define WARM_UP_CONNECTIONS 500
#define PROBE_NUMBER 1

static long received;

static void opened(struct connection *connection)
{
    stats_answer(clock_ns - connection->sent_at);
    awaited_count++; /* the probe will tell when it has come */
}

static void message(struct connection *connection, int opcode, const uint8_t *data, size_t size)
{
    payload_check(connection, opcode, data, size, 0, PROBE_NUMBER);
    if (connection->sequence++) fail("connection %d: the group's message came twice", connection->number);
    awaited_count--;
    received++;
}

/* Open up to `count` connections, or as many as there are at `end`. */
static void open_until(long count, uint64_t end)
{
    uint64_t progress_at = now_ns(), now;
    long before = open_count;
    while (open_count < count && (now = now_ns()) < end) {
        net_connect_more();
        net_turn(10);
        if (open_count != before) {
            before = open_count;
            progress_at = now;
        } else if (now - progress_at > (uint64_t)(options.timeout * 1e9)) {
            fail("no handshake for %g seconds, with %ld connections open", options.timeout, open_count);
        }
    }
}

static void run(void)
{
    long under_way;
    if (options.connections <= WARM_UP_CONNECTIONS) fail("a storm needs more than %d connections", WARM_UP_CONNECTIONS);
    open_until(WARM_UP_CONNECTIONS, UINT64_MAX);
    report("measuring");
    stats_open_window();
    open_until(options.connections, now_ns() + (uint64_t)(options.seconds * 1e9));
    stats_close_window();
    report("measured");
    if (stats_empty()) fail("no connection opened in the measured window; make it longer");
    for (under_way = net_connecting(); under_way > 0; under_way = net_connecting()) {
        long before = open_count;
        uint64_t end = now_ns() + (uint64_t)(options.timeout * 1e9);
        while (open_count == before && now_ns() < end) net_turn(100);
        if (open_count == before) fail("%ld handshakes got no answer in %g seconds", under_way, options.timeout);
    }
    payload_send(&connections[0], 0, PROBE_NUMBER);
    drain();
    stats_print(0);
}

const struct mode mode_storm = {.name = "storm", .websocket = true, .run = run, .opened = opened, .message = message};
