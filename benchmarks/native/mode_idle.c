/* Idle: open the connections, say so, hold them, and do what stdin says.
 *
 *     probe   the first connection sends one message; every connection of its group must get it, or the answer says how many did
 *     listen  from now on others send; their messages are counted, whatever they say
 *     report  say how many came since
 *     quit    (or the end of stdin) leave
 *
 * Lost connections do not end the run: how many a server holds is the result.
 */
#include "client.h"

static char first_reason[512];
static uint64_t probe_ends;
static uint32_t probe_number;
static long probe_count;
static bool listening;

static void lost(struct connection *connection, const char *why)
{
    (void)connection;
    if (*first_reason) return;
    for (size_t i = 0; why[i] && i < sizeof first_reason - 1; i++)
        first_reason[i] = why[i] < ' ' || why[i] == '"' || why[i] == '\\' ? '\'' : why[i]; /* goes into JSON */
}

static void opened(struct connection *connection)
{
    stats_answer(clock_ns - connection->sent_at);
}

static void report_open(const char *event)
{
    printf("{\"event\": \"%s\", \"open\": %ld, \"lost\": %ld, \"received\": %ld, \"reason\": \"%s\"}\n", event, open_count,
           lost_count, probe_count, first_reason);
    fflush(stdout);
}

static void message(struct connection *connection, int opcode, const uint8_t *data, size_t size)
{
    if (listening) {
        probe_count++;
        return;
    }
    if (!probe_ends) {
        connection_lost(connection, "a message that nobody sent");
        return;
    }
    payload_check(connection, opcode, data, size, 0, probe_number);
    probe_count++;
}

static void command(const char *line)
{
    if (!strcmp(line, "quit")) exit(0);
    if (!strcmp(line, "report")) {
        report_open("report");
        return;
    }
    listening = !strcmp(line, "listen");
    if (listening) {
        probe_count = 0;
        return;
    }
    if (strcmp(line, "probe")) fail("unknown command: %s", line);
    probe_count = 0;
    probe_ends = now_ns() + (uint64_t)(options.timeout * 1e9);
    for (long i = 0; i < options.connections; i++)
        if (connections[i].state == OPEN) {
            payload_send(&connections[i], 0, ++probe_number);
            break;
        }
}

static void start(void)
{
    report_open("open");
    for (;;) {
        net_turn(100);
        if (probe_ends && (probe_count >= open_count || now_ns() > probe_ends)) {
            probe_ends = 0;
            report_open("probe");
        }
    }
}

const struct mode mode_idle = {
    .name = "idle", .websocket = true, .start = start, .opened = opened, .message = message, .lost = lost, .command = command};
