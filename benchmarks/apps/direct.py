"""P8: each connection is told its reply channel's name, and sends to others by theirs: "NAME, line feed, text"."""

from benchmarks.apps.hello import application
from offload import Channel, Message, route

__all__ = ["application", "channel_routing"]


def connect(message: Message) -> None:
    message.reply_channel.send({"text": message.reply_channel.name})


def receive(message: Message) -> None:
    name, _, text = message["text"].partition("\n")
    Channel(name).send({"text": text})


channel_routing = [
    route("websocket.connect", connect, path=r"^/direct$"),
    route("websocket.receive", receive, path=r"^/direct$"),
]
