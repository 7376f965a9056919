/* Sockets, buffers and the loop. Knows bytes only; the mode and websocket.c give them meaning. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"

#define INPUT_SIZE (1 << 18)
#define EVENTS 512
/* Linux gives connect() every second ephemeral port first, and searches them all, at a cost, once they are in use: about
 * 14,000 to one destination. More connections than this get another address of ours. */
#define CONNECTIONS_OF_AN_ADDRESS 8192

struct connection *connections;
long open_count, lost_count, reconnect_count;
uint64_t clock_ns;

static int epoll_fd;
static long started_count; /* connections that were begun */
static uint8_t input[INPUT_SIZE];
static struct sockaddr_in server, second_server; /* the second one for odd connections, if there are two */

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

void connection_lost(struct connection *connection, const char *format, ...)
{
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    if (!mode->lost) fail("connection %d of %ld: %s", connection->number, options.connections, why);
    if (connection->state == OPEN) open_count--;
    connection->state = LOST;
    lost_count++;
    close(connection->fd);
    mode->lost(connection, why);
}

static void watch(struct connection *connection, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, operation, connection->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

void connection_send(struct connection *connection, const void *data, size_t size)
{
    ssize_t sent = 0;
    if (!connection->out_size) {
        sent = send(connection->fd, data, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size) return;
        if (sent < 0) {
            if (errno != EAGAIN) {
                connection_lost(connection, "send: %s", strerror(errno));
                return;
            }
            sent = 0;
        }
        watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    size -= (size_t)sent;
    if (connection->out_at + connection->out_size + size > connection->out_space) {
        if (connection->out_at) memmove(connection->out, connection->out + connection->out_at, connection->out_size);
        connection->out_at = 0;
        if (connection->out_size + size > connection->out_space) {
            connection->out_space = connection->out_size + size;
            connection->out = must_alloc(connection->out, connection->out_space);
        }
    }
    memcpy(connection->out + connection->out_at + connection->out_size, (const uint8_t *)data + sent, size);
    connection->out_size += size;
}

static void send_rest(struct connection *connection)
{
    ssize_t sent = send(connection->fd, connection->out + connection->out_at, connection->out_size, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) connection_lost(connection, "send: %s", strerror(errno));
        return;
    }
    connection->out_size -= (size_t)sent;
    connection->out_at += (size_t)sent;
    if (connection->out_size) return;
    connection->out_at = 0;
    watch(connection, EPOLL_CTL_MOD, EPOLLIN);
}

static void opened(struct connection *connection)
{
    connection->state = OPEN;
    open_count++;
    if (mode->opened) mode->opened(connection);
}

static void choose_address(struct connection *connection)
{
    struct sockaddr_in ours = {.sin_family = AF_INET};
    int later = 1; /* connect() chooses the port */
    if (connection->number < CONNECTIONS_OF_AN_ADDRESS) return;
    ours.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)connection->number / CONNECTIONS_OF_AN_ADDRESS);
    setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &later, sizeof later);
    if (bind(connection->fd, (struct sockaddr *)&ours, sizeof ours)) fail("bind: %s", strerror(errno));
}

static void begin(struct connection *connection)
{
    struct sockaddr_in *address;
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection->state = CONNECTING;
    choose_address(connection);
    address = options.second_port && connection->number % 2 ? &second_server : &server;
    if (connect(connection->fd, (struct sockaddr *)address, sizeof *address) && errno != EINPROGRESS)
        connection_lost(connection, "connect: %s", strerror(errno));
    else
        watch(connection, EPOLL_CTL_ADD, EPOLLOUT);
}

void connection_reopen(struct connection *connection)
{
    close(connection->fd);
    connection->in_size = connection->out_size = connection->out_at = 0;
    open_count--;
    reconnect_count++;
    begin(connection);
}

static void connected(struct connection *connection)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        connection_lost(connection, "connect: %s", strerror(error));
        return;
    }
    watch(connection, EPOLL_CTL_MOD, EPOLLIN);
    if (!mode->websocket) {
        opened(connection);
        return;
    }
    connection->state = HANDSHAKING;
    connection->sent_at = now_ns();
    websocket_handshake(connection);
}

/* Give `data` to whoever reads this connection now. Returns the bytes that were used. */
static size_t consume(struct connection *connection, uint8_t *data, size_t size)
{
    size_t used = 0;
    if (connection->state == HANDSHAKING) {
        used = websocket_handshake_answer(connection, data, size);
        if (!used || connection->state == LOST) return used;
        opened(connection);
    }
    if (connection->state == OPEN && used < size)
        used += mode->websocket ? websocket_frames(connection, data + used, size - used)
                                : mode->answer(connection, data + used, size - used);
    return used;
}

static void readable(struct connection *connection)
{
    bool resumed = connection->in_size > 0;
    uint8_t *data = input;
    size_t space = INPUT_SIZE, size, used;
    ssize_t got;
    if (resumed) {
        if (connection->in_space - connection->in_size < INPUT_SIZE) {
            connection->in_space = (connection->in_size + INPUT_SIZE) * 2;
            connection->in = must_alloc(connection->in, connection->in_space);
        }
        data = connection->in;
        space = connection->in_space - connection->in_size;
    }
    got = recv(connection->fd, data + connection->in_size, space, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        connection_lost(connection, "%s", got ? strerror(errno) : "closed by the server");
        return;
    }
    clock_ns = now_ns();
    size = connection->in_size + (size_t)got;
    connection->in_size = 0;
    used = consume(connection, data, size);
    if (connection->state != OPEN && connection->state != HANDSHAKING) return; /* reopened or lost */
    size -= used;
    connection->in_size = size;
    if (!size) {
        if (resumed && connection->in_space > 4 * INPUT_SIZE) {
            free(connection->in);
            connection->in = NULL;
            connection->in_space = 0;
        }
        return;
    }
    if (!resumed && connection->in_space < size) {
        connection->in_space = size;
        connection->in = must_alloc(connection->in, size);
    }
    if (connection->in != data + used) memmove(connection->in, data + used, size);
}

static void read_commands(void)
{
    static char line[256];
    static size_t size;
    ssize_t got = read(STDIN_FILENO, line + size, sizeof line - 1 - size);
    char *end;
    if (got <= 0) exit(0); /* the harness is done, or gone */
    size += (size_t)got;
    while ((end = memchr(line, '\n', size))) {
        *end = 0;
        mode->command(line);
        size -= (size_t)(end + 1 - line);
        memmove(line, end + 1, size);
    }
}

void net_start(void)
{
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)options.port);
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    second_server = server;
    second_server.sin_port = htons((uint16_t)options.second_port);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = must_alloc(NULL, (size_t)options.connections * sizeof *connections);
    memset(connections, 0, (size_t)options.connections * sizeof *connections);
    for (long i = 0; i < options.connections; i++) connections[i].number = (int)i;
    if (mode->command) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event)) fail("stdin must be a pipe");
    }
}

long net_connecting(void)
{
    return started_count - open_count - lost_count;
}

void net_connect_more(void)
{
    while (started_count < options.connections && net_connecting() < options.outstanding)
        begin(&connections[started_count++]);
}

void net_turn(int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct connection *connection = events[i].data.ptr;
        if (!connection) {
            read_commands();
            continue;
        }
        if (connection->state == CONNECTING) {
            connected(connection);
            continue;
        }
        if (events[i].events & EPOLLOUT && connection->out_size) send_rest(connection);
        if (connection->state != LOST && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(connection);
    }
}

void net_wait(uint64_t until)
{
    struct pollfd events = {.fd = epoll_fd, .events = POLLIN};
    uint64_t now = now_ns(), rest = until > now ? until - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(rest / 1000000000u), .tv_nsec = (long)(rest % 1000000000u)};
    if (ppoll(&events, 1, &timeout, NULL) > 0) net_turn(0);
}
