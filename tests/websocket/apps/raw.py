"""A WSGI application that serves raw sockets, one shape at each path."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
from gevent.event import Event
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.websocket import WebSocket

from offload.transport.connection import HIGH_WATER_BYTES

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

entered = Event()
decided = Event()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 -- the server's log is what tests read


def echo(ws: Any) -> None:
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            ws.send(message)


def kinds(ws: Any) -> None:
    """Tell what each message is in Python."""
    for message in ws:
        ws.send(f"{type(message).__name__} {len(message)}")


def facts(ws: Any) -> None:
    environ = ws.environ
    same = environ["wsgi.websocket"] is ws and isinstance(ws, WebSocket)
    ws.send(json.dumps([same, ws.path, ws.origin, ws.protocol, ws.version, environ["QUERY_STRING"], ws.closed]))


def ends(ws: Any) -> None:
    """Tell the log what the end looks like."""
    received = []
    try:
        while True:
            received.append(ws.receive())
    except WebSocketError as error:
        say(f"received {received!r}, then {type(error).__name__}: {error}; closed: {ws.closed}")
    try:
        ws.send("too late")
    except WebSocketError as error:
        say(f"sending: {error}")
    ws.close()


def until_closed(ws: Any) -> None:
    """What gevent-websocket's users write where they do not receive."""
    while not ws.closed:
        gevent.sleep(0.01)


def hang(ws: Any) -> None:
    """Never receive; end when sending fails."""
    ws.send("begun")
    say("hang has begun")
    try:
        until_closed(ws)
    finally:
        say(f"hang has ended, closed: {ws.closed}")


def push(ws: Any) -> None:
    """Only send, as a clock does, once the client has said what it wants; or at once."""
    if ws.environ["QUERY_STRING"] == "ask":
        say(f"push is asked {ws.receive()}")
    try:
        until_closed(ws)
        say("push sees the end")
        say(f"push receives {ws.receive()!r}, {ws.receive()!r}")
    finally:
        say(f"push has ended, closed: {ws.closed}")


def slowly(ws: Any) -> None:
    """What gevent-websocket's users write, with some work for each message."""
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            gevent.idle()
            ws.send(message)
    say("slowly has ended")


def close_with(ws: Any) -> None:
    """Close with a Python expression."""
    ws.close(*eval(ws.receive()))
    say(f"closed: {ws.closed}")


def timeout(ws: Any) -> None:
    """A timeout of the socket."""
    sock = ws.handler.socket
    facts = [sock.gettimeout(), sock.fileno() > 2, list(sock.getpeername()) == list(ws.handler.client_address)]
    sock.settimeout(0.05)
    ws.send(json.dumps([*facts, sock.gettimeout(), sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)]))
    say(f"timeout receives {ws.receive()!r}; closed: {ws.closed}; descriptor: {sock.fileno() > 2}")


def hang_up(ws: Any) -> None:
    """End the connection by its socket."""
    ws.handler.socket.shutdown(socket.SHUT_RDWR)
    say(f"hang_up is closed: {ws.closed}, with descriptor {ws.handler.socket.fileno()}")


def suicide(ws: Any) -> None:
    """End its own greenlet."""
    ws.send("bye")
    gevent.getcurrent().kill()
    say("not dead")


def murder(ws: Any) -> None:
    """Have another greenlet end this one."""
    ws.send("bye")
    gevent.spawn(gevent.getcurrent().kill)
    ws.receive()
    say("not dead")


def leave(ws: Any) -> None:
    ws.send("bye")


def unused(ws: Any) -> None:
    """Never touch it."""


def fail(ws: Any) -> None:
    ws.receive()
    raise RuntimeError("the application's own mistake")


def fail_early(ws: Any) -> None:
    raise RuntimeError("before any use")


def close(ws: Any) -> None:
    code, reason = json.loads(ws.receive())
    ws.close(code, reason)
    ws.close()
    say(f"after close: {ws.closed}")


def many(ws: Any) -> None:
    """Ten greenlets send a hundred messages each."""

    def send(number: int) -> None:
        for count in range(100):
            ws.send(f"{number}:{count}:" + "x" * 5000)

    gevent.joinall([gevent.spawn(send, number) for number in range(10)], raise_error=True)


def share(ws: Any) -> None:
    """Two greenlets receive; who gets a message says so."""

    def receive(name: str) -> None:
        for message in ws:
            ws.send(f"{name} {message}")

    gevent.joinall([gevent.spawn(receive, name) for name in "ab"], raise_error=True)
    say("both have ended")


def patience(ws: Any) -> None:
    """Give up waiting, and wait again."""
    with gevent.Timeout(0.01, False):
        ws.receive()
    ws.send("nothing yet")
    ws.send(ws.receive())


def pour(ws: Any) -> None:
    """Send as many mebibytes as asked for."""
    for number in range(int(ws.receive())):
        ws.send(bytes([number % 256]) * (1 << 20))
    say("poured")


def behind(ws: Any) -> None:
    """Fill what the system holds, and half of what the connection does; then send what is asked for, and close."""
    connection = ws.engine.connection
    while connection.unsent_bytes < HIGH_WATER_BYTES // 2:
        ws.send(b"x" * 1000)
    say("behind is full")
    for word in json.loads(ws.receive()):
        ws.send(word)
    ws.close(4000)
    say("behind is closed")


def flood(ws: Any) -> None:
    """Many greenlets send at once to a client that does not read."""
    ws.receive()
    greenlets = [gevent.spawn(ws.send, b"x" * 100_000) for _ in range(100)]
    gevent.joinall(greenlets)
    failed = sum(greenlet.exception is not None for greenlet in greenlets)
    say(f"flood: {'some' if 0 < failed < 100 else failed} failed")


def late(ws: Any) -> None:
    """Wait for the word of a plain request before the first use."""
    entered.set()
    decided.wait()
    echo(ws)


def later(ws: Any) -> None:
    """Receive nothing until a plain request says so."""
    ws.send("begun")
    decided.wait()
    echo(ws)


def frames(ws: Any) -> None:
    """What the lower half of the interface takes."""
    ws.send_frame("text", ws.OPCODE_TEXT)
    ws.send_frame(b"binary", ws.OPCODE_BINARY)
    ws.send(b"caf\xc3\xa9", binary=False)
    ws.send("caf\u00e9", binary=True)
    ws.send(bytearray(b"array"))
    ws.send(memoryview(b"view"))
    ws.send(None, binary=False)
    ws.send_frame(b"beat", ws.OPCODE_PING)
    mistakes: list[Callable[[], None]] = [
        lambda: ws.send(7),
        lambda: ws.send_frame(b"", ws.OPCODE_CONTINUATION),
        lambda: ws.send_frame(b"x" * 126, ws.OPCODE_PING),
        lambda: ws.send(b"\xff", binary=False),
    ]
    for mistake in mistakes:
        try:
            mistake()
        except (TypeError, ValueError) as error:
            ws.send(type(error).__name__)
    ws.send_frame((4321).to_bytes(2, "big") + b"framed", ws.OPCODE_CLOSE)


def latency(ws: Any) -> None:
    """At once, and whenever the client asks for it."""
    ws.send(json.dumps(ws.latency))
    for _ in ws:
        ws.send(json.dumps(ws.latency))


def members(ws: Any) -> None:
    """What chats do with the server's list of clients."""
    handler = ws.handler
    ws.send(str(len(handler.server.clients)))
    handler.active_client.nickname = ws.receive()
    for client in list(handler.server.clients.values()):
        client.ws.send(f"{getattr(client, 'nickname', '?')} of {len(handler.server.clients)}")
    same = handler.server.clients[handler.client_address] is handler.active_client
    ws.send(
        f"{same} {handler.websocket is ws} {handler.server.application is application} {handler.environ is ws.environ}"
    )
    while ws.receive() is not None:
        pass
    say("a member has left")


def chosen(ws: Any) -> None:
    try:
        ws.accept("v9")
    except ValueError as error:
        say(str(error))
    ws.accept("v2")
    ws.send("ready")


SOCKETS = {
    f"/{function.__name__}": function
    for function in (
        echo, kinds, facts, ends, hang, leave, unused, fail, fail_early, close, many, share, patience, pour, flood,
        late, later, frames, latency, members, chosen, behind, push, slowly, close_with, timeout,
        hang_up, suicide, murder,
    )
}  # fmt: skip


def lazy(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """A generator: nothing runs before the server iterates."""
    ws = environ["wsgi.websocket"]
    if environ["QUERY_STRING"] == "refuse":
        start_response("409 Conflict", [("Content-Type", "text/plain")])
        yield b"not "
        yield b"now"
        return
    yield b""
    ws.send("lazy")
    yield b"dropped"


def none(environ: Environ, start_response: StartResponse) -> None:
    """Nothing is returned, as from a function without a return."""
    if environ["QUERY_STRING"] != "unused":
        environ["wsgi.websocket"].send("used")


def late_response(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Use the socket after the response has begun."""
    start_response("200 OK", [("Content-Length", "5")])(b"begun")
    try:
        environ["wsgi.websocket"].send("too late")
    except WebSocketError as error:
        say(f"after the response: {error}")
    return []


def swallowed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """What frameworks make of an exception."""
    environ["wsgi.websocket"].send("working")
    start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
    return [b"oops"]


def guarded(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Catch what a refused handshake raises."""
    ws = environ["wsgi.websocket"]
    try:
        ws.receive()
    except WebSocketError as error:
        say(f"{error}; closed: {ws.closed}")
    start_response("200 OK", [])
    return [b"dropped"]


def refuse(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    ws = environ["wsgi.websocket"]
    body = f"{ws.path} is not for {ws.origin}".encode()
    start_response("403 Forbidden", [("Content-Type", "text/plain"), ("X-Why", "because")])
    return [body]


CALLABLES = {
    "/lazy": lazy,
    "/none": none,
    "/late-response": late_response,
    "/swallowed": swallowed,
    "/guarded": guarded,
    "/refuse": refuse,
}


def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/entered":
        entered.wait()
    elif path == "/decide":
        decided.set()
    elif path == "/begin":
        decided.clear()
        entered.clear()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"websocket" if "wsgi.websocket" in environ else b"plain"]


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path in CALLABLES:
        return CALLABLES[path](environ, start_response)
    if path in SOCKETS and "wsgi.websocket" in environ:
        SOCKETS[path](environ["wsgi.websocket"])
        return []
    return plain(environ, start_response)
