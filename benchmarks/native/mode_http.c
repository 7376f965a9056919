/* HTTP keep-alive: each connection has one request outstanding, and checks status and body before it sends the next.
 *
 * A body is checked piece by piece as it comes, and never kept. With `upload` each request carries a body of `size` bytes that
 * names its connection and its turn, and the answer must be the same. With `new_paths` no two requests have one path: ten digits
 * follow the path that was asked for, so that nobody can serve a request as a repetition of an earlier one.
 * A server that says "Connection: close" is believed: the connection is opened anew, and the result counts it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "client.h"

#define DIGITS 10

enum phase { HEAD, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, LAST_CHUNK_END };

struct response {
    enum phase phase;
    bool closing;
    size_t left; /* bytes to come of the body, or of the chunk */
    size_t at;   /* bytes of the body that came */
};

static struct response *responses; /* one for each connection */
static uint8_t *request;           /* head and body; the next connection's prefix goes where the last one's was */
static size_t head_size, request_size, wanted_size = SIZE_MAX;
static uint8_t *digits; /* of the path, in the request; NULL where it never changes */
static uint64_t asked;
static const uint8_t *wanted;

static void map_wanted(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status)) fail("%s cannot be read", path);
    wanted_size = (size_t)status.st_size;
    wanted = mmap(NULL, wanted_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (wanted == MAP_FAILED) fail("%s cannot be mapped", path);
}

static void ask(struct connection *connection)
{
    if (digits) {
        uint64_t value = asked++;
        for (int i = DIGITS - 1; i >= 0; i--, value /= 10) digits[i] = (uint8_t)('0' + value % 10);
    }
    if (options.upload) payload_prefix(request + head_size, (uint32_t)connection->number, connection->sequence);
    connection->sent_at = now_ns();
    awaited_count++;
    connection_send(connection, request, request_size);
}

static void start(void)
{
    static const char GET[] = "GET %s%.*s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nAccept: */*\r\n\r\n";
    static const char POST[] = "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nAccept: */*\r\n"
                               "Content-Type: application/octet-stream\r\nContent-Length: %ld\r\n\r\n";
    size_t body_size = options.upload ? (size_t)options.size : 0, space = strlen(options.path) + 256;
    request = must_alloc(NULL, space + body_size);
    if (options.upload)
        head_size = (size_t)snprintf((char *)request, space, POST, options.path, options.port, options.size);
    else {
        head_size = (size_t)snprintf((char *)request, space, GET, options.path, options.new_paths ? DIGITS : 0, "0000000000",
                                     options.port);
        if (options.new_paths) digits = request + strlen("GET ") + strlen(options.path);
    }
    for (size_t i = 0; i < body_size; i++) request[head_size + i] = (uint8_t)('a' + i % 26);
    request_size = head_size + body_size;
    if (options.body_length >= 0) wanted_size = (size_t)options.body_length;
    wanted = (const uint8_t *)options.body;
    if (options.body_file) map_wanted(options.body_file);
    if (options.upload) {
        wanted = request + head_size;
        wanted_size = body_size;
    }
    responses = must_alloc(NULL, (size_t)options.connections * sizeof *responses);
    memset(responses, 0, (size_t)options.connections * sizeof *responses);
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

/* Returns the bytes of the head, 0 for "more, please". */
static size_t read_head(struct connection *connection, struct response *response, uint8_t *data, size_t size)
{
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    size_t head, length = SIZE_MAX;
    bool chunked = false;
    if (!end) return 0;
    head = (size_t)(end - data) + 4;
    if (memcmp(data, "HTTP/1.1 200", 12)) {
        int line = (int)((uint8_t *)memchr(data, '\r', size) - data);
        fail("connection %d: the server answered %.*s", connection->number, line < 80 ? line : 80, (char *)data);
    }
    *response = (struct response){.phase = LENGTH};
    for (uint8_t *at = data; at < end; ) {
        const char *value;
        at = (uint8_t *)memmem(at, head, "\r\n", 2) + 2;
        if ((value = value_of((char *)at, "content-length:"))) length = strtoul(value, NULL, 10);
        else if ((value = value_of((char *)at, "transfer-encoding:"))) chunked = !strncasecmp(value, "chunked", 7);
        else if ((value = value_of((char *)at, "connection:"))) response->closing = !strncasecmp(value, "close", 5);
    }
    if (chunked) response->phase = CHUNK_SIZE;
    else if (length == SIZE_MAX) fail("connection %d: neither Content-Length nor chunks", connection->number);
    else response->left = length;
    return head;
}

static void check_piece(struct connection *connection, struct response *response, const uint8_t *data, size_t size)
{
    if (response->at + size > wanted_size)
        fail("connection %d: a body of %zu bytes and more, expected %zu", connection->number, response->at + size, wanted_size);
    if (options.upload) payload_prefix(request + head_size, (uint32_t)connection->number, connection->sequence);
    if (wanted && memcmp(data, wanted + response->at, size))
        fail("connection %d: a body of other content than expected", connection->number);
    response->at += size;
    stats_body(size);
}

static void complete(struct connection *connection, struct response *response)
{
    if (wanted_size != SIZE_MAX && response->at != wanted_size)
        fail("connection %d: a body of %zu bytes, expected %zu", connection->number, response->at, wanted_size);
    response->phase = HEAD;
    connection->sequence++;
    stats_answer(clock_ns - connection->sent_at);
    if (draining) return;
    if (response->closing) connection_reopen(connection);
    else ask(connection);
}

static size_t answer(struct connection *connection, uint8_t *data, size_t size)
{
    struct response *response = &responses[connection->number];
    size_t used = 0;
    if (response->phase == HEAD && !(used = read_head(connection, response, data, size))) return 0;
    for (;;) {
        uint8_t *at = data + used, *end;
        size_t rest = size - used;
        switch (response->phase) {
        case CHUNK_SIZE:
            if (!(end = memmem(at, rest, "\r\n", 2))) return used;
            response->left = strtoul((char *)at, NULL, 16);
            response->phase = response->left ? CHUNK : LAST_CHUNK_END;
            used = (size_t)(end - data) + 2;
            continue;
        case CHUNK_END:
        case LAST_CHUNK_END:
            if (rest < 2) return used;
            if (memcmp(at, "\r\n", 2)) fail("connection %d: a chunk without its end", connection->number);
            used += 2;
            if (response->phase == LAST_CHUNK_END) break;
            response->phase = CHUNK_SIZE;
            continue;
        default:
            if (rest > response->left) rest = response->left;
            check_piece(connection, response, at, rest);
            used += rest;
            response->left -= rest;
            if (response->left) return used;
            if (response->phase == LENGTH) break;
            response->phase = CHUNK_END;
            continue;
        }
        break;
    }
    if (used != size) fail("connection %d: bytes after the response", connection->number);
    complete(connection, response);
    return used;
}

const struct mode mode_http = {.name = "http", .start = start, .opened = opened, .answer = answer};
