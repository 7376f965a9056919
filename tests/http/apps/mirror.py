"""Answers with what the application was told; a routed WebSocket is sent its own connect message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from offload import route
from offload.consumers.message import Message
from offload.exceptions import DenyConnection


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if "wsgi.websocket" in environ:
        environ["wsgi.websocket"].send("hello")
        return []
    if path == "/echo":
        body = environ["wsgi.input"].read()
    elif path.startswith("/size/"):
        body = bytes(range(256)) * (int(path.rpartition("/")[2]) // 256)
    elif path == "/fail":
        raise RuntimeError("the application fails on purpose")
    else:
        body = json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Mirror", 'a "b" c')])
    return [body]


def connect(message: Message) -> None:
    if message.content["path"] == "/ws/deny":
        raise DenyConnection
    told = {key: message.content[key] for key in ("scheme", "client", "server", "path")}
    message.reply_channel.send({"text": json.dumps(told)})


def receive(message: Message) -> None:
    message.reply_channel.send({"text": message.content["text"]})


channel_routing = [
    route("websocket.connect", connect, path=r"^/ws"),
    route("websocket.receive", receive),
]
