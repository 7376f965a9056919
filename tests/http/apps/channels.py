"""Requests that consumers answer by messages; every other path is the WSGI application's."""

from __future__ import annotations

import threading
from typing import Any

from offload import Channel, Group, Message, route, statistics

gone: list[str] = []
left = threading.Event()


def answer(message: Message, **more: Any) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"status": 200, "headers": [[b"X-Seen", b"yes"]], **more})


def describe(message: Message) -> None:
    shown = {**message.content, "headers": len(message["headers"]), "reply_channel": "", "body": len(message["body"])}
    shown.pop("client"), shown.pop("server")
    answer(message, content=repr(sorted(shown.items())).encode())


def streams(message: Message) -> None:
    answer(message, content=b"one,", more_content=True)
    assert message.reply_channel is not None
    message.reply_channel.send({"content": b"two,", "more_content": True})
    message.reply_channel.send({"content": b"three"})
    # What follows the end belongs to no request any more.
    message.reply_channel.send({"content": b"four"})


def waits(message: Message) -> None:
    Group("waiting").add(message.reply_channel)


def disconnected(message: Message) -> None:
    gone.append(message["path"])
    left.set()


def fails(message: Message) -> None:
    raise RuntimeError("on purpose")


def malformed(message: Message) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"staus": 200})


def without_status(message: Message) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"content": b"x"})


def large(message: Message) -> None:
    answer(message, content=b"x" * 100_000, more_content=True)
    assert message.reply_channel is not None
    for _ in range(30):
        message.reply_channel.send({"content": b"y" * 100_000, "more_content": True})
    message.reply_channel.send({"more_content": False})


def upload(message: Message) -> None:
    size = len(message["body"])
    channel = message.get("body_channel")
    pieces = 0
    while channel is not None:
        found = message.channel_layer.receive([channel], 10)
        assert found is not None
        piece = found[1]
        if piece.get("closed"):
            gone.append("upload")
            left.set()
            return
        size += len(piece["content"])
        pieces += 1
        if not piece["more_content"]:
            break
    answer(message, content=f"{size} in {pieces} pieces".encode())


channel_routing = [
    route("http.request", describe, path="^/describe"),
    route("http.request", streams, path="^/streams"),
    route("http.request", waits, path="^/wait"),
    route("http.request", fails, path="^/fails"),
    route("http.request", malformed, path="^/malformed"),
    route("http.request", without_status, path="^/no-status"),
    route("http.request", large, path="^/large"),
    route("http.request", upload, path="^/upload", method="POST"),
    route("http.disconnect", disconnected),
]


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    path = environ["PATH_INFO"]
    body = b"the application"
    if path == "/answer-all":
        Group("waiting").send({"status": 200, "content": environ["QUERY_STRING"].encode()})
    elif path == "/gone":
        left.wait(10)
        body = repr(gone).encode()
    elif path.startswith("/to/"):
        Channel(path[4:]).send({"status": 201, "content": b"by name"})
    elif path == "/greenlets":
        body = str(statistics()["process.greenlets"]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
