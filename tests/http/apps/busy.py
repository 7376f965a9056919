"""An application whose requests and messages keep the processor busy, and a watch over its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from offload import Message, route

REQUEST_SECONDS, MESSAGE_SECONDS = 0.001, 0.005
_worst = 0.0


def _watch() -> None:
    """The most processor time between two fires of a timer: the machine's other work does not count."""
    global _worst
    before = time.process_time()
    while True:
        gevent.sleep(0.001)
        now = time.process_time()
        _worst = max(_worst, now - before)
        before = now


gevent.spawn(_watch)


def _compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """``/worst`` tells the longest standstill of the loop since it was last asked, and is quick; others compute."""
    global _worst
    body = b""
    if environ["PATH_INFO"] == "/worst":
        body, _worst = str(_worst).encode(), 0.0
    else:
        _compute(REQUEST_SECONDS)
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def accept(message: Message) -> None:
    pass


def receive(message: Message) -> None:
    _compute(MESSAGE_SECONDS)
    message.reply_channel.send({"text": message["text"]})


channel_routing = [route("websocket.connect", accept), route("websocket.receive", receive)]
