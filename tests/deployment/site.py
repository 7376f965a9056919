"""A site to put behind proxies: it tells what it knows of the client, takes uploads, and has one room to chat in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from offload import Group, Message, route


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/upload":
        body = environ["wsgi.input"]
        answer: object = sum(len(piece) for piece in iter(lambda: body.read(65536), b""))
    elif path == "/say":
        Group("room").send({"text": environ["QUERY_STRING"]})
        answer = "said"
    else:
        answer = [
            environ["REMOTE_ADDR"] or environ["HTTP_X_FORWARDED_FOR"],
            environ["HTTP_HOST"],
            environ["wsgi.url_scheme"],
        ]
    start_response("200 OK", [("Content-Type", "application/json"), ("X-Server", environ["SERVER_SOFTWARE"])])
    return [json.dumps(answer).encode()]


def ws_connect(message: Message) -> None:
    Group("room").add(message.reply_channel)


def ws_receive(message: Message) -> None:
    Group("room").send({"text": message["text"]})


def ws_client(message: Message) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"text": json.dumps([message["client"][0], message["scheme"]]), "close": True})


channel_routing = [
    route("websocket.connect", ws_client, path=r"^/ws/client/$"),
    route("websocket.connect", ws_connect, path=r"^/ws/room/$"),
    route("websocket.receive", ws_receive, path=r"^/ws/room/$"),
]
