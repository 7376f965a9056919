"""A site that gunicorn serves with offload's worker class."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from offload import Group, Message, route

print(f"imported with {'cooperative' if time.sleep.__module__ == 'gevent.hub' else 'plain'} sleep")  # noqa: T201


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/say":
        Group("room").send({"text": environ["QUERY_STRING"]})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def ws_connect(message: Message) -> None:
    Group("room").add(message.reply_channel)


def ws_receive(message: Message) -> None:
    Group("room").send({"text": message["text"]})


channel_routing = [
    route("websocket.connect", ws_connect, path=r"^/room/$"),
    route("websocket.receive", ws_receive, path=r"^/room/$"),
]
