/* What the load client and the limit server share: clocks, descriptors, WebSocket frames and their masks.
 *
 * Frames follow RFC 6455, section 5.2. Nothing here allocates or reads a socket.
 */
#ifndef BENCHMARKS_WIRE_H
#define BENCHMARKS_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define OPCODE_TEXT 0x1
#define OPCODE_BINARY 0x2
#define OPCODE_CLOSE 0x8
#define OPCODE_PING 0x9
#define OPCODE_PONG 0xA

#define MAX_FRAME_HEAD 14

/* The key is fixed, so that neither side needs SHA-1; the answer is the one that RFC 6455, section 1.3 prints. */
#define HANDSHAKE_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define HANDSHAKE_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

struct frame {
    uint8_t first; /* FIN, RSV and opcode as on the wire */
    int masked;
    uint8_t mask[4];
    size_t head;   /* bytes before the payload */
    uint64_t size; /* bytes of payload */
};

static inline uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Read a frame's head. Returns 0 for "more bytes, please", and never looks at the payload. */
static inline int frame_read(const uint8_t *data, size_t size, struct frame *frame)
{
    size_t head = 2;
    if (size < 2) return 0;
    frame->first = data[0];
    frame->masked = data[1] >> 7;
    frame->size = data[1] & 0x7f;
    if (frame->size == 126) {
        if (size < 4) return 0;
        frame->size = (uint64_t)data[2] << 8 | data[3];
        head = 4;
    } else if (frame->size == 127) {
        if (size < 10) return 0;
        frame->size = 0;
        for (int i = 2; i < 10; i++) frame->size = frame->size << 8 | data[i];
        head = 10;
    }
    if (frame->masked) {
        if (size < head + 4) return 0;
        memcpy(frame->mask, data + head, 4);
        head += 4;
    }
    frame->head = head;
    return 1;
}

/* Write a frame's head without a mask. Returns its length. */
static inline size_t frame_head(uint8_t *out, uint8_t first, uint64_t size)
{
    out[0] = first;
    if (size < 126) {
        out[1] = (uint8_t)size;
        return 2;
    }
    if (size < 65536) {
        out[1] = 126;
        out[2] = (uint8_t)(size >> 8);
        out[3] = (uint8_t)size;
        return 4;
    }
    out[1] = 127;
    for (int i = 0; i < 8; i++) out[2 + i] = (uint8_t)(size >> (56 - 8 * i));
    return 10;
}

/* XOR with the repeated mask: its own inverse. `out` and `in` may be the same. */
static inline void frame_mask(uint8_t *out, const uint8_t *in, size_t size, const uint8_t mask[4])
{
    uint32_t word;
    uint64_t wide;
    size_t i = 0;
    memcpy(&word, mask, 4);
    wide = (uint64_t)word << 32 | word;
    for (; i + 8 <= size; i += 8) {
        uint64_t chunk;
        memcpy(&chunk, in + i, 8);
        chunk ^= wide;
        memcpy(out + i, &chunk, 8);
    }
    for (; i < size; i++) out[i] = in[i] ^ mask[i & 3];
}

static inline void *must_alloc(void *old, size_t size)
{
    void *block = realloc(old, size);
    if (!block) {
        fprintf(stderr, "out of memory for %zu bytes\n", size);
        exit(1);
    }
    return block;
}

static inline void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

#endif
