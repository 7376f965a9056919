"""A Bottle application with the chat loop of its documentation's shape."""

from __future__ import annotations

from typing import Any

from bottle import Bottle, abort, request
from geventwebsocket import WebSocketError

app = Bottle()
users: set[Any] = set()


@app.route("/websocket")
def handle_websocket() -> None:
    wsock = request.environ.get("wsgi.websocket")
    if not wsock:
        abort(400, "Expected WebSocket request.")
    while True:
        try:
            message = wsock.receive()
            wsock.send(f"Your message was: {message!r}")
        except WebSocketError:
            break


@app.route("/chat")
def chat() -> None:
    wsock = request.environ["wsgi.websocket"]
    users.add(wsock)
    try:
        while True:
            message = wsock.receive()
            if message is None:
                break
            for user in list(users):
                user.send(message)
    finally:
        users.discard(wsock)


@app.route("/members-only")
def members_only() -> None:
    abort(403, "Members only.")
