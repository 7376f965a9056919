"""gevent-websocket's own classes: a `Resource` with a chat, an echo with a subprotocol, and a plain page."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from geventwebsocket import Resource, WebSocketApplication
from geventwebsocket.protocols.base import BaseProtocol


class Chat(WebSocketApplication):  # type: ignore[misc]
    def on_open(self) -> None:
        self.broadcast({"joined": len(self.ws.handler.server.clients)})

    def on_message(self, message: str | None) -> None:
        if message is None:
            return
        content = json.loads(message)
        if "nickname" in content:
            self.ws.handler.active_client.nickname = content["nickname"]
        self.broadcast({"by": getattr(self.ws.handler.active_client, "nickname", "anonymous"), **content})

    def broadcast(self, content: dict[str, Any]) -> None:
        for client in list(self.ws.handler.server.clients.values()):
            client.ws.send(json.dumps(content))

    def on_close(self, reason: object) -> None:
        for client in list(self.ws.handler.server.clients.values()):
            client.ws.send(json.dumps({"left": True}))


class Shout(BaseProtocol):  # type: ignore[misc]
    PROTOCOL_NAME = "shout"

    def on_message(self, message: str | None) -> None:
        self.app.on_message(message and message.upper())


class Echo(WebSocketApplication):  # type: ignore[misc]
    """As it comes: `on_message` sends what it gets, and None at the end."""

    protocol_class = Shout


def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<p>a page</p>"]


application = Resource(OrderedDict([("^/chat", Chat), ("^/echo", Echo), ("^/", page)]))
