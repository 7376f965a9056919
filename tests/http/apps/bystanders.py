"""The application of the HTTP tests, and an echo over WebSockets."""

from __future__ import annotations

from offload import Message, route
from tests.http.app import application

__all__ = ["application", "channel_routing"]


def accept(message: Message) -> None:
    pass


def echo(message: Message) -> None:
    message.reply_channel.send({"text": message["text"]})


channel_routing = [
    route("websocket.connect", accept, path="^/echo$"),
    route("websocket.receive", echo, path="^/echo$"),
]
