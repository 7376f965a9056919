"""What a user writes who has types checked strictly; mypy reads it against the built wheel, nobody runs it."""

from __future__ import annotations

from offload import Channel, Group, Message, configure, include, route, route_class
from offload.consumers import JsonWebsocketConsumer


def ws_connect(message: Message, room: str) -> None:
    Group(f"chat-{room}").add(message.reply_channel)
    message.reply_channel.send({"accept": True})


def ws_receive(message: Message, room: str) -> None:
    Group(f"chat-{room}").send({"text": message.content["text"]})
    text: str = message["text"]
    Channel("thumbnails.generate").send({"name": text, "reply": message.reply_channel.name})


def ws_disconnect(message: Message, room: str) -> None:
    Group(f"chat-{room}").discard(message.reply_channel)


class Live(JsonWebsocketConsumer):
    def receive(self, content: object, **kwargs: object) -> None:
        self.send(content)


configure("memory://")
channel_routing = [
    route("websocket.connect", ws_connect, path=r"^/chat/(?P<room>\w+)/$"),
    route("websocket.receive", ws_receive, path=r"^/chat/(?P<room>\w+)/$"),
    route("websocket.disconnect", ws_disconnect, path=r"^/chat/(?P<room>\w+)/$"),
    route_class(Live, path=r"^/live/$"),
    include([route("thumbnails.generate", "project.tasks.make_thumbnail")]),
]
