/* The C limit: what one thread and one epoll reach when they check nothing.
 *
 *     limit PORT [FILE]
 *
 * GET / answers "Hello, world!", /file the file, a POST its body; /echo echoes WebSocket messages, /room sends each message
 * to all in the room.
 * Not a server to use: it believes every byte, keeps no timeouts, and knows one handshake key.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire.h"

enum kind { HTTP, ECHO, ROOM };

struct connection {
    int fd;
    enum kind kind;
    int seat; /* index in the room */
    uint8_t *rest;
    size_t rest_size, rest_space;
    off_t file_left;
};

#define INPUT_SIZE (1 << 18)
#define HELLO_BODY "Hello, world!"

static const char HELLO[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n" HELLO_BODY;
static const char SWITCHING[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: " HANDSHAKE_ACCEPT "\r\n\r\n";

static int epoll_fd, file_fd = -1;
static off_t file_size;
static struct connection **room;
static int room_count, room_space;
static uint8_t input[INPUT_SIZE];
static uint8_t *output;
static size_t output_size, output_space;

static void send_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;
    while (size) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent < 0) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN) return; /* the read side will notice */
            poll(&wait, 1, -1);
            continue;
        }
        at += sent;
        size -= (size_t)sent;
    }
}

static void output_add(const void *data, size_t size)
{
    if (output_size + size > output_space) {
        output_space = (output_size + size) * 2;
        output = must_alloc(output, output_space);
    }
    memcpy(output + output_size, data, size);
    output_size += size;
}

static size_t length_head(char *out, size_t space, size_t length)
{
    return (size_t)snprintf(out, space, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", length);
}

static void watch(struct connection *connection, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
}

static void send_file(struct connection *connection)
{
    off_t at = file_size - connection->file_left;
    while (at < file_size && sendfile(connection->fd, file_fd, &at, (size_t)(file_size - at)) >= 0) {}
    connection->file_left = at < file_size && errno == EAGAIN ? file_size - at : 0;
    watch(connection, connection->file_left ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void start_file(struct connection *connection)
{
    char head[128];
    send_all(connection->fd, head, length_head(head, sizeof head, (size_t)file_size));
    connection->file_left = file_size;
    send_file(connection);
}

static void drop(struct connection *connection)
{
    if (connection->kind == ROOM) {
        struct connection *last = room[--room_count];
        room[connection->seat] = last;
        last->seat = connection->seat;
    }
    close(connection->fd);
    free(connection->rest);
    free(connection);
}

static size_t read_requests(struct connection *connection, uint8_t *data, size_t size)
{
    size_t used = 0;
    while (connection->kind == HTTP) {
        uint8_t *start = data + used, *end = memmem(start, size - used, "\r\n\r\n", 4);
        if (!end) break;
        used = (size_t)(end - data) + 4;
        if (!memcmp(start, "GET /echo", 9)) {
            connection->kind = ECHO;
            output_add(SWITCHING, sizeof SWITCHING - 1);
        } else if (!memcmp(start, "GET /room", 9)) {
            if (room_count == room_space) {
                room_space = room_space ? room_space * 2 : 1024;
                room = must_alloc(room, (size_t)room_space * sizeof *room);
            }
            connection->kind = ROOM;
            connection->seat = room_count;
            room[room_count++] = connection;
            output_add(SWITCHING, sizeof SWITCHING - 1);
        } else if (!memcmp(start, "POST", 4)) {
            uint8_t *field = memmem(start, (size_t)(end - start), "Content-Length: ", 16);
            size_t length = field ? strtoul((char *)field + 16, NULL, 10) : 0;
            char head[128];
            if (length > size - used) return (size_t)(start - data);
            output_add(head, length_head(head, sizeof head, length));
            output_add(data + used, length);
            used += length;
        } else if (!memcmp(start, "GET /file", 9)) {
            start_file(connection);
        } else {
            output_add(HELLO, sizeof HELLO - 1);
        }
    }
    return used;
}

static size_t read_frames(struct connection *connection, uint8_t *data, size_t size)
{
    struct frame frame;
    size_t used = 0;
    (void)connection;
    while (frame_read(data + used, size - used, &frame) && frame.head + frame.size <= size - used) {
        uint8_t *payload = data + used + frame.head, head[MAX_FRAME_HEAD];
        frame_mask(payload, payload, frame.size, frame.mask);
        output_add(head, frame_head(head, frame.first, frame.size));
        output_add(payload, frame.size);
        used += frame.head + frame.size;
    }
    return used;
}

static void handle(struct connection *connection)
{
    uint8_t *data = input;
    size_t size = 0, used = 0;
    ssize_t got;
    if (connection->rest_size) {
        size = connection->rest_size;
        if (connection->rest_space < size + INPUT_SIZE) {
            connection->rest_space = (size + INPUT_SIZE) * 2;
            connection->rest = must_alloc(connection->rest, connection->rest_space);
        }
        data = connection->rest;
    }
    got = recv(connection->fd, data + size, INPUT_SIZE, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        drop(connection);
        return;
    }
    size += (size_t)got;
    output_size = 0;
    used = read_requests(connection, data, size);
    if (output_size) {
        send_all(connection->fd, output, output_size);
        output_size = 0;
    }
    if (connection->kind != HTTP) {
        used += read_frames(connection, data + used, size - used);
        if (output_size && connection->kind == ECHO) send_all(connection->fd, output, output_size);
        else if (output_size)
            for (int i = 0; i < room_count; i++) send_all(room[i]->fd, output, output_size);
    }
    size -= used;
    if (size && connection->rest_space < size) {
        connection->rest_space = size;
        connection->rest = must_alloc(connection->rest, size);
    }
    if (size && connection->rest != data + used) memmove(connection->rest, data + used, size);
    connection->rest_size = size;
}

static void accept_some(int listener)
{
    for (int i = 0; i < 64; i++) {
        int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct epoll_event event = {.events = EPOLLIN};
        struct connection *connection;
        if (fd < 0) return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection = must_alloc(NULL, sizeof *connection);
        *connection = (struct connection){.fd = fd, .kind = HTTP};
        event.data.ptr = connection;
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct epoll_event events[512], event = {.events = EPOLLIN};
    int one = 1, listener;
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: limit PORT [FILE]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    if (argc == 3) {
        struct stat status;
        file_fd = open(argv[2], O_RDONLY | O_CLOEXEC);
        if (file_fd < 0 || fstat(file_fd, &status)) {
            perror(argv[2]);
            return 1;
        }
        file_size = status.st_size;
    }
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 2048)) {
        perror("limit");
        return 1;
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    event.data.ptr = NULL;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection) accept_some(listener);
            else if (events[i].events & EPOLLOUT) send_file(connection);
            else handle(connection);
        }
    }
}
