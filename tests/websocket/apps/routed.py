"""Routed WebSockets for tests; what happens to them is told on stderr, and by /state over HTTP."""

import json
import os
import socket
import sys

import gevent
import gevent.monkey
from gevent.event import Event

from offload import Channel, Group, route, statistics
from offload.exceptions import DenyConnection, OffloadError

GATES: dict[str, Event] = {}


def tell(*words):
    sys.stderr.write(" ".join(map(str, words)) + "\n")
    sys.stderr.flush()


def application(environ, start_response):
    path, _, name = environ["PATH_INFO"].strip("/").partition("/")
    if path == "open":
        GATES.setdefault(name, Event()).set()
    elif path in ("group", "some"):
        count, _, size = name.partition("/")
        for _ in range(int(count)):
            Group("all" if path == "group" else path).send({"text": "x" * int(size)})
    elif path == "kick":
        Group("all").send({"close": int(name)})
    state = {}
    if path == "state":
        counts = statistics()
        state = {
            **{name.rpartition(".")[2]: count for name, count in counts.items() if name.startswith("websocket.")},
            "attached": len(Channel("any").channel_layer.subscriptions),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "greenlets": counts["process.greenlets"],
        }
    body = json.dumps(state).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def said(message):
    return {kind: message[kind] for kind in ("text", "bytes") if message.get(kind) is not None}


def echo(message):
    message.reply_channel.send(said(message))


def wait(message):
    """Consume nothing until the gate is open."""
    tell("waiting", message.get("text"))
    GATES.setdefault(message["path"].strip("/").replace("/", "-"), Event()).wait()
    echo(message)


def gone(message):
    tell("disconnected", message["path"], message["code"], message["order"])


def join(message):
    Group("all").add(message.reply_channel)


def join_both(message):
    Group("some").add(message.reply_channel)
    join(message)


def connect(message, how):
    reply = message.reply_channel
    tell("connecting", how)
    if how == "deny":
        raise DenyConnection
    if how == "deny-because":
        raise DenyConnection("not \nyou\x1b")
    if how == "close":
        reply.send({"close": True})
    elif how == "false":
        reply.send({"accept": False})
    elif how == "answer":
        page = {"status": 302, "headers": [[b"Location", b"/login"], ["Content-Length", "99"]], "content": b"log in"}
        reply.send({"accept": False, **page})
    elif how == "status-alone":
        reply.send({"accept": False, "status": 410})
    elif how == "header-of-two-lines":
        reply.send({"accept": True, "headers": [["X-Seen", "yes\r\nSet-Cookie: a=b"]]})
    elif how == "headers":
        reply.send({"headers": [["Set-Cookie", "a=b"], [b"set-cookie", b"c=d"]]})
    elif how == "headers-deny":
        reply.send({"headers": [["Set-Cookie", "a=b"]]})
        raise DenyConnection
    elif how == "bad-close":
        reply.send({"close": 1005})
    elif how == "bad-text":
        reply.send({"text": 5})
    elif how == "no-decision":
        reply.send({"close": False})
        reply.send({"text": None})
    elif how == "fail":
        raise ValueError("as wanted")
    elif how == "exit":
        raise SystemExit(3)
    elif how == "hang-up":
        GATES.setdefault("hang-up", Event()).wait()
    elif how == "hang-up-deny":
        GATES.setdefault("hang-up-deny", Event()).wait()
        raise DenyConnection
    elif how.startswith("ask-"):
        # The test answers at this port.
        word = socket.create_connection(("127.0.0.1", int(how[4:]))).recv(10)
        if word == b"deny":
            raise DenyConnection
        if word == b"fail":
            raise ValueError("as wanted")
        if word == b"text":
            reply.send({"text": "first"})
    elif how == "text":
        reply.send({"text": "first"})
        reply.send({"text": "second"})
    elif how == "text-close":
        reply.send({"text": "bye", "close": 4001})
    elif how == "accept-fail":
        reply.send({"accept": True, "text": "open"})
        raise ValueError("as wanted")
    elif how == "protocol":
        reply.send({"accept": True, "subprotocol": "v2.json"})
    elif how == "others":
        # Not the consumer's own words: another greenlet's, and a group's.
        gevent.spawn(Channel(reply.name, channel_layer=message.channel_layer).send, {"text": "other"}).join()
        Group("others").add(reply)
        gevent.spawn(Group("others").send, {"close": 4002}).join()
        tell("decided late")
    elif how == "thread":
        done = gevent.monkey.get_original("_thread", "allocate_lock")()
        done.acquire()

        def speak():
            reply.send({"accept": True, "text": "first"})
            reply.send({"text": "second"})
            done.release()

        speaking = gevent.get_hub().threadpool.spawn(speak)
        # The loop stands still until both are on their way; then its words decide, not the return from here.
        assert done.acquire(timeout=10)
        speaking.get(timeout=10)
    elif how == "long":
        reply.send({"accept": True})
        GATES.setdefault("long", Event()).wait()


def act(message):
    kind, _, rest = message["text"].partition(" ")
    if kind == "close":
        message.reply_channel.send({"close": int(rest)})
    elif kind == "together":
        # As what comes from a layer's server by one read.
        message.channel_layer.subscriptions.fan_out("all", *json.loads(rest))
    elif kind == "flood":
        count, size = map(int, rest.split())
        for number in range(count):
            message.reply_channel.send({"text": f"{number:06} ".ljust(size, "x")})
        tell("flooded")
    elif kind == "try":
        # The connection's own channel, and any other object of its name: the short way and the one of the layer.
        layer = message.channel_layer
        for channel in (message.reply_channel, Channel(message.reply_channel.name, channel_layer=layer)):
            before = layer.statistics()
            try:
                channel.send(eval(rest))
                found = "sent"
            except (OffloadError, TypeError, ValueError) as error:
                found = f"{type(error).__name__}: {error}"
            after = layer.statistics()
            grown = [after[name] - before[name] for name in ("sent", "received")]
            layer.send(message.reply_channel, {"text": json.dumps([found, grown])})
    elif kind == "exit":
        raise SystemExit(4)
    elif kind == "timeout":
        raise gevent.Timeout
    elif kind == "headers":
        message.reply_channel.send({"text": json.dumps([[part.decode() for part in pair] for pair in message.headers])})
    elif kind == "latency":
        message.reply_channel.send({"text": json.dumps(message.latency)})


channel_routing = [
    route("websocket.receive", echo, path=r"^/echo$"),
    route("websocket.receive", wait, path=r"^/wait"),
    route("websocket.connect", join, path=r"^/group$"),
    route("websocket.connect", join_both, path=r"^/both$"),
    route("websocket.connect", connect, path=r"^/connect/(?P<how>[\w-]+)$"),
    route("websocket.receive", act, path=r"^/act$"),
    route("websocket.receive", echo),
    route("websocket.disconnect", gone),
]
