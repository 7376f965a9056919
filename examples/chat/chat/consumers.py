"""Who is in a room, and what is said there. What a message looks like is the page's business (see chat.js)."""

import json
import os

from offload import Group

LONGEST = 4000


# As `make demo` starts the server; elsewhere the page does without the number.
PROCESSES = int(os.environ.get("WEB_CONCURRENCY") or 0)


def ws_connect(message, room):
    # To show that a room spans server processes. Sent before joining, it comes first.
    message.reply_channel.send({"text": json.dumps({"process": os.getpid(), "of": PROCESSES})})
    Group(f"chat-{room}").add(message.reply_channel)


def ws_receive(message, room):
    text = message.get("text")
    if text and len(text) <= LONGEST:
        Group(f"chat-{room}").send({"text": text})


def ws_disconnect(message, room):
    Group(f"chat-{room}").discard(message.reply_channel)
