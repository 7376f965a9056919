"""Echo, twice: by a consumer under /routed/, and by the application itself everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from offload import route

PAGE = b"<!doctype html><title>echo</title>"


def echo(message: Any) -> None:
    message.reply_channel.send({key: message[key] for key in ("text", "bytes") if key in message})


channel_routing = [route("websocket.receive", echo, path="^/routed/")]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [PAGE]
    for message in websocket:
        websocket.send(message)
    return []
