"""P1: a WebSocket echo through a routed consumer."""

from benchmarks.apps.hello import application
from offload import Message, route

__all__ = ["application", "channel_routing"]


def connect(message: Message) -> None:
    message.reply_channel.send({"accept": True})


def receive(message: Message) -> None:
    message.reply_channel.send({"text": message["text"]})


channel_routing = [
    route("websocket.connect", connect, path=r"^/echo$"),
    route("websocket.receive", receive, path=r"^/echo$"),
]
