"""P10: a group for each path; who connects joins it, and one member's words go to all of it."""

from benchmarks.apps.hello import application
from offload import Group, Message, route

__all__ = ["application", "channel_routing"]


def connect(message: Message, name: str) -> None:
    Group(name).add(message.reply_channel)


def receive(message: Message, name: str) -> None:
    Group(name).send({"text": message["text"]})


channel_routing = [
    route("websocket.connect", connect, path=r"^/(?P<name>\w+)$"),
    route("websocket.receive", receive, path=r"^/(?P<name>\w+)$"),
]
"""Who leaves is forgotten by the server itself."""
