"""P2 and P5: a chat room. Every connection joins one group; what one says goes to all, through the layer."""

from benchmarks.apps.hello import application
from offload import Group, Message, route

__all__ = ["application", "channel_routing"]


def connect(message: Message) -> None:
    Group("room").add(message.reply_channel)


def receive(message: Message) -> None:
    Group("room").send({"text": message["text"]})


def disconnect(message: Message) -> None:
    Group("room").discard(message.reply_channel)


channel_routing = [
    route("websocket.connect", connect, path=r"^/room$"),
    route("websocket.receive", receive, path=r"^/room$"),
    route("websocket.disconnect", disconnect, path=r"^/room$"),
]
