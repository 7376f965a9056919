"""The consumer: asks the database, and returns what it was sent."""

from benchmarks.apps.database import wait
from offload import Message, route


def receive(message: Message) -> None:
    wait()
    message.reply_channel.send({"text": message["text"]})


channel_routing = [route("websocket.receive", receive, path=r"^/wait$")]
