/* HTTP keep-alive: each connection has one request outstanding, and checks status and body before it sends the next.
 *
 * A server that says "Connection: close" is believed: the connection is opened anew, and the result counts it.
 */
#define _GNU_SOURCE
#include <strings.h>

#include "client.h"

static char request[1024];
static size_t request_size;

static void ask(struct connection *connection)
{
    connection->sent_at = now_ns();
    awaited_count++;
    connection_send(connection, request, request_size);
}

static void start(void)
{
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nAccept: */*\r\n\r\n",
                        options.path, options.port);
    if (size >= (int)sizeof request) fail("the path is too long");
    request_size = (size_t)size;
    for (long i = 0; i < options.connections; i++) ask(&connections[i]);
}

static void opened(struct connection *connection)
{
    if (request_size && !draining) ask(connection); /* opened anew after "Connection: close" */
}

/* The value of header `name` (with its colon) on the line at `line`, or NULL. */
static const char *value_of(const char *line, const char *name)
{
    size_t size = strlen(name);
    if ((*line | 0x20) != *name || strncasecmp(line, name, size)) return NULL;
    for (line += size; *line == ' ' || *line == '\t'; line++) {}
    return line;
}

/* Join a chunked body in place. Returns its bytes on the wire, 0 for "more, please". */
static size_t join_chunks(uint8_t *data, size_t size, size_t *joined)
{
    size_t used = 0;
    *joined = 0;
    for (;;) {
        uint8_t *end = memmem(data + used, size - used, "\r\n", 2);
        size_t chunk;
        if (!end) return 0;
        chunk = strtoul((char *)data + used, NULL, 16);
        used = (size_t)(end - data) + 2;
        if (used + chunk + 2 > size) return 0;
        memmove(data + *joined, data + used, chunk);
        *joined += chunk;
        used += chunk + 2;
        if (!chunk) return used;
    }
}

static size_t answer(struct connection *connection, uint8_t *data, size_t size)
{
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4), *body;
    size_t head, body_size = SIZE_MAX, wire_size;
    bool chunked = false, closing = false;
    if (!end) return 0;
    head = (size_t)(end - data) + 4;
    body = data + head;
    if (memcmp(data, "HTTP/1.1 200", 12)) {
        int line = (int)((uint8_t *)memchr(data, '\r', size) - data);
        fail("connection %d: the server answered %.*s", connection->number, line < 80 ? line : 80, (char *)data);
    }
    for (uint8_t *at = data; at < end; ) {
        const char *value;
        at = (uint8_t *)memmem(at, head, "\r\n", 2) + 2;
        if ((value = value_of((char *)at, "content-length:"))) body_size = strtoul(value, NULL, 10);
        else if ((value = value_of((char *)at, "transfer-encoding:"))) chunked = !strncasecmp(value, "chunked", 7);
        else if ((value = value_of((char *)at, "connection:"))) closing = !strncasecmp(value, "close", 5);
    }
    if (chunked) {
        wire_size = join_chunks(body, size - head, &body_size);
        if (!wire_size) fail("connection %d: a chunked body in pieces; give the application a Content-Length", connection->number);
    } else {
        if (body_size == SIZE_MAX) fail("connection %d: neither Content-Length nor chunks", connection->number);
        if (body_size > size - head) return 0;
        wire_size = body_size;
    }
    if (options.body_length >= 0 && body_size != (size_t)options.body_length)
        fail("connection %d: a body of %zu bytes, expected %ld", connection->number, body_size, options.body_length);
    if (options.body && memcmp(body, options.body, body_size))
        fail("connection %d: a body of other content than expected", connection->number);
    if (head + wire_size != size) fail("connection %d: bytes after the response", connection->number);
    stats_answer(clock_ns - connection->sent_at);
    if (draining) return head + wire_size;
    if (closing) connection_reopen(connection);
    else ask(connection);
    return head + wire_size;
}

const struct mode mode_http = {.name = "http", .start = start, .opened = opened, .answer = answer};
