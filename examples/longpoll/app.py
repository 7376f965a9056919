"""A wall of messages for clients without WebSockets: each waits for the answer to a request (long polling).

    offload examples.longpoll.app -b 127.0.0.1:8000 -w 2 --layer redis://127.0.0.1:6379/0

A request that waits is a member of a group, and costs its server process no greenlet. What is said between two requests
of a client is not kept for it.
"""

import json
from pathlib import Path
from urllib.parse import parse_qs

from offload import Group, route

PAGE = (Path(__file__).parent / "page.html").read_bytes()


def wait(message):
    """Answered by whoever speaks next, in whichever process."""
    Group("wall").add(message.reply_channel)


def say(message):
    text = parse_qs(message["body"].decode("utf-8", "replace")).get("text", [""])[0]
    body = json.dumps({"text": text}).encode()
    Group("wall").send({"status": 200, "headers": [[b"Content-Type", b"application/json"]], "content": body})
    message.reply_channel.send({"status": 204})


channel_routing = [
    route("http.request", wait, path=r"^/messages$", method="GET"),
    route("http.request", say, path=r"^/messages$", method="POST"),
]


def application(environ, start_response):
    """The page; all that is not routed comes here."""
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(PAGE)))])
    return [PAGE]
