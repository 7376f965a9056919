/* The load client's command line; see client.h for the parts.
 *
 *     client MODE --port N [--path /] [--connections N] [--size BYTES] [--warm S] [--seconds S] ...
 *
 * Connects to 127.0.0.1 only. A timed mode prints {"event": "measuring"} and "measured" when its window opens and closes, then
 * waits for what is still due, and prints one JSON line of results; `idle` prints one line for each thing it was told to do.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>

#include "client.h"

struct options options = {
    .path = "/", .connections = 1, .size = 64, .senders = 1, .depth = 1, .outstanding = 64, .body_length = -1,
    .warm = 0.5, .seconds = 5, .timeout = 10,
};
const struct mode *mode;

static const struct mode *const modes[] = {&mode_echo, &mode_fanout, &mode_http, &mode_idle, &mode_pairs, &mode_storm};

static const struct option flags[] = {
    {"port", required_argument, NULL, 'p'},        {"path", required_argument, NULL, 'P'},
    {"connections", required_argument, NULL, 'n'}, {"size", required_argument, NULL, 's'},
    {"senders", required_argument, NULL, 'k'},     {"depth", required_argument, NULL, 'd'},
    {"outstanding", required_argument, NULL, 'o'}, {"body", required_argument, NULL, 'b'},
    {"second-port", required_argument, NULL, 'q'}, {"rate", required_argument, NULL, 'r'},
    {"body-file", required_argument, NULL, 'f'},   {"upload", no_argument, NULL, 'u'},
    {"body-length", required_argument, NULL, 'l'}, {"warm", required_argument, NULL, 'w'},
    {"seconds", required_argument, NULL, 't'},     {"timeout", required_argument, NULL, 'T'},
    {"binary", no_argument, NULL, 'B'},            {"browser-headers", no_argument, NULL, 'H'},
    {"new-paths", no_argument, NULL, 'N'},
    {NULL, 0, NULL, 0},
};

static long number(const char *text, long low, long high)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < low || value > high) fail("%s is not a number from %ld to %ld", text, low, high);
    return value;
}

static void read_options(int argc, char **argv)
{
    int flag;
    while ((flag = getopt_long(argc, argv, "", flags, NULL)) != -1) {
        switch (flag) {
        case 'p': options.port = number(optarg, 1, 65535); break;
        case 'P': options.path = optarg; break;
        case 'n': options.connections = number(optarg, 1, 1000000); break;
        case 's': options.size = number(optarg, PREFIX_SIZE, 1 << 28); break;
        case 'k': options.senders = number(optarg, 1, MAX_SENDERS); break;
        case 'd': options.depth = number(optarg, 1, MAX_DEPTH); break;
        case 'o': options.outstanding = number(optarg, 1, 1000000); break;
        case 'b': options.body = optarg; options.body_length = (long)strlen(optarg); break;
        case 'l': options.body_length = number(optarg, 0, 1 << 28); break;
        case 'f': options.body_file = optarg; break;
        case 'u': options.upload = true; break;
        case 'q': options.second_port = number(optarg, 1, 65535); break;
        case 'r': options.rate = atof(optarg); break;
        case 'w': options.warm = atof(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'T': options.timeout = atof(optarg); break;
        case 'B': options.binary = true; break;
        case 'H': options.browser_headers = true; break;
        case 'N': options.new_paths = true; break;
        default: exit(2);
        }
    }
    if (optind != argc - 1) fail("usage: client MODE --port N [options]");
    options.mode = argv[optind];
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(modes[i]->name, options.mode)) mode = modes[i];
    if (!mode) fail("unknown mode: %s", options.mode);
    if (!options.port) fail("--port is missing");
    if (options.senders > options.connections) fail("more senders than connections");
}

/* Open all connections, or as many as a server that went silent lets us. */
static void open_all(void)
{
    uint64_t progress_at = now_ns();
    long before = -1;
    while (open_count + lost_count < options.connections) {
        net_connect_more();
        net_turn(100);
        if (open_count + lost_count != before) {
            before = open_count + lost_count;
            progress_at = now_ns();
        } else if (now_ns() - progress_at > (uint64_t)(options.timeout * 1e9)) {
            if (mode->lost) return;
            fail("only %ld of %ld connections opened", open_count, options.connections);
        }
    }
}

static void run_until(uint64_t end)
{
    uint64_t progress_at = now_ns(), before = total_count, now;
    while ((now = now_ns()) < end) {
        net_turn(100);
        if (total_count != before) {
            before = total_count;
            progress_at = now;
        } else if (now - progress_at > (uint64_t)(options.timeout * 1e9)) {
            fail("no answer for %g seconds, after %llu answers", options.timeout, (unsigned long long)total_count);
        }
    }
}

void report(const char *event)
{
    printf("{\"event\": \"%s\"}\n", event);
    fflush(stdout);
}

/* What was lost shows only now: every message that was sent must still be answered. */
void drain(void)
{
    uint64_t end = now_ns() + (uint64_t)(options.timeout * 1e9);
    draining = true;
    while (awaited_count > 0 && now_ns() < end) net_turn(100);
    if (awaited_count) fail("%ld answers did not come in %g seconds", awaited_count, options.timeout);
    if (stats_empty()) fail("no answer came in the measured window; make it longer");
}

int main(int argc, char **argv)
{
    uint64_t start;
    double connect_seconds;
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    payload_start();
    net_start();
    if (mode->run) {
        mode->run();
        return 0;
    }
    start = now_ns();
    open_all();
    connect_seconds = (double)(now_ns() - start) / 1e9;
    mode->start(); /* idle never returns */
    run_until(now_ns() + (uint64_t)(options.warm * 1e9));
    report("measuring");
    stats_open_window();
    run_until(now_ns() + (uint64_t)(options.seconds * 1e9));
    stats_close_window();
    report("measured");
    drain();
    stats_print(connect_seconds);
    return 0;
}
