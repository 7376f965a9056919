"""Fails where its path says so; ``FAILING_LOG`` gives the log of the server a handler that fails, too."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from offload import Message, route


class _Failing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(f"no room for {record.levelname}")


if os.environ.get("FAILING_LOG"):
    logging.getLogger("offload").addHandler(_Failing())


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/fails"):
        raise RuntimeError("as it was told to")
    headers = [("Content-Length", "1" if path == "/too-long" else "2")]
    if path == "/hop":
        headers.append(("Keep-Alive", "timeout=5"))
    start("200 OK", headers)
    return [b"ok"]


def accept(message: Message) -> None:
    if message["path"].startswith("/refuses"):
        raise RuntimeError("as it was told to")


def receive(message: Message) -> None:
    if message["text"] == "fail":
        raise RuntimeError("as it was told to")
    message.reply_channel.send({"text": message["text"]})


def answer(message: Message) -> None:
    raise RuntimeError("as it was told to")


channel_routing = [
    route("websocket.connect", accept, path="^/(?:ws|refuses)"),
    route("websocket.receive", receive, path="^/ws"),
    route("websocket.disconnect", accept),
    route("http.request", answer, path="^/message"),
]
