/* The client's side of RFC 6455: handshake, masked frames out, checked frames in, and payloads that name themselves. */
#define _GNU_SOURCE
#include "client.h"

/* A payload is the sender and the sequence in hexadecimal, then letters: an answer that is late, doubled, cut or another
 * connection's cannot pass for the right one. */
static uint8_t *filler, *payload, *frame_out;
static size_t frame_space;
static uint64_t random_state = 88172645463325252u;

/* As a browser on the same host sends them: what a server keeps for a connection must have a real size. */
static const char BROWSER_HEADERS[] =
    "Origin: http://127.0.0.1:%ld\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    "Accept: */*\r\n"
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Cookie: sessionid=%08dabcdefghijklmnopqrstuvwx; csrftoken=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    "Sec-Fetch-Mode: websocket\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
    "Pragma: no-cache\r\n"
    "Cache-Control: no-cache\r\n";

static uint32_t random_word(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

void websocket_handshake(struct connection *connection)
{
    char request[2048], browser[1024] = "";
    int size;
    if (options.browser_headers)
        snprintf(browser, sizeof browser, BROWSER_HEADERS, options.port, connection->number);
    size = snprintf(request, sizeof request,
                    "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s"
                    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " HANDSHAKE_KEY "\r\n\r\n",
                    options.path, options.port, browser);
    if (size >= (int)sizeof request) fail("the path is too long");
    connection_send(connection, request, (size_t)size);
}

size_t websocket_handshake_answer(struct connection *connection, uint8_t *data, size_t size)
{
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    size_t head;
    if (!end) {
        if (size > 65536) connection_lost(connection, "handshake: a head over 64 KiB");
        return 0;
    }
    head = (size_t)(end - data) + 4;
    if (size < 12 || memcmp(data, "HTTP/1.1 101", 12)) {
        int line = (int)((uint8_t *)memchr(data, '\r', size) - data);
        connection_lost(connection, "handshake: the server answered %.*s", line < 80 ? line : 80, (char *)data);
    } else if (!memmem(data, head, HANDSHAKE_ACCEPT, sizeof HANDSHAKE_ACCEPT - 1)) {
        connection_lost(connection, "handshake: wrong Sec-WebSocket-Accept");
    }
    return head;
}

void websocket_send(struct connection *connection, int opcode, const uint8_t *data, size_t size)
{
    uint32_t mask = random_word();
    size_t head;
    if (size + MAX_FRAME_HEAD > frame_space) {
        frame_space = size + MAX_FRAME_HEAD;
        frame_out = must_alloc(frame_out, frame_space);
    }
    head = frame_head(frame_out, (uint8_t)(0x80 | opcode), size);
    frame_out[1] |= 0x80;
    memcpy(frame_out + head, &mask, 4);
    frame_mask(frame_out + head + 4, data, size, frame_out + head);
    connection_send(connection, frame_out, head + 4 + size);
}

size_t websocket_frames(struct connection *connection, uint8_t *data, size_t size)
{
    struct frame frame;
    size_t used = 0;
    while (connection->state == OPEN && frame_read(data + used, size - used, &frame)) {
        uint8_t *content = data + used + frame.head;
        int opcode = frame.first & 0x0f;
        if (frame.masked || (frame.first & 0xf0) != 0x80) {
            connection_lost(connection, "unexpected frame: first byte 0x%02x, %s", frame.first,
                            frame.masked ? "masked" : "not masked");
            break;
        }
        if (frame.head + frame.size > size - used) break;
        used += frame.head + frame.size;
        if (opcode == OPCODE_PING)
            websocket_send(connection, OPCODE_PONG, content, frame.size);
        else if (opcode == OPCODE_CLOSE)
            connection_lost(connection, "closed by the server with code %d",
                            frame.size >= 2 ? content[0] << 8 | content[1] : 1005);
        else if (opcode != OPCODE_PONG)
            mode->message(connection, opcode, content, frame.size);
    }
    return used;
}

void payload_prefix(uint8_t out[PREFIX_SIZE], uint32_t sender, uint32_t sequence)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 7; i >= 0; i--) {
        out[i] = (uint8_t)digits[sender & 15];
        out[8 + i] = (uint8_t)digits[sequence & 15];
        sender >>= 4;
        sequence >>= 4;
    }
}

void payload_start(void)
{
    size_t size = (size_t)options.size;
    random_state ^= now_ns();
    filler = must_alloc(NULL, size + 1);
    payload = must_alloc(NULL, size + 1);
    for (size_t i = 0; i < size; i++) filler[i] = (uint8_t)('a' + i % 26);
    memcpy(payload, filler, size);
}

void payload_send(struct connection *connection, uint32_t sender, uint32_t sequence)
{
    payload_prefix(payload, sender, sequence);
    connection->sent_at = now_ns();
    websocket_send(connection, options.binary ? OPCODE_BINARY : OPCODE_TEXT, payload, (size_t)options.size);
}

void payload_check(struct connection *connection, int opcode, const uint8_t *data, size_t size, uint32_t sender,
                   uint32_t sequence)
{
    uint8_t head[PREFIX_SIZE];
    int wanted = options.binary ? OPCODE_BINARY : OPCODE_TEXT;
    if (opcode != wanted) fail("connection %d: opcode %d, expected %d", connection->number, opcode, wanted);
    if (size != (size_t)options.size)
        fail("connection %d: %zu bytes, expected %ld", connection->number, size, options.size);
    payload_prefix(head, sender, sequence);
    if (memcmp(data, head, PREFIX_SIZE))
        fail("connection %d: message %.16s, expected %.16s", connection->number, (const char *)data, (char *)head);
    if (memcmp(data + PREFIX_SIZE, filler + PREFIX_SIZE, size - PREFIX_SIZE))
        fail("connection %d: message %.16s has other content than was sent", connection->number, (char *)head);
}

uint32_t payload_sender(const uint8_t *data)
{
    char digits[9] = "";
    memcpy(digits, data, 8);
    return (uint32_t)strtoul(digits, NULL, 16);
}
