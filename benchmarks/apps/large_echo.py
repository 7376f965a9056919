"""P11: an echo of large binary WebSocket messages."""

from benchmarks.apps.hello import application
from offload import Message, route

__all__ = ["application", "channel_routing"]


def receive(message: Message) -> None:
    message.reply_channel.send({"bytes": message["bytes"]})


channel_routing = [route("websocket.receive", receive, path=r"^/echo$")]
