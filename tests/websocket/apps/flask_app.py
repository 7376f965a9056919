"""A Flask project with a middleware that routes WebSockets to functions, as such projects were written for years."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gevent
from flask import Flask, request, session
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, Rule


class Sockets:
    """Routes of WebSockets beside an application's own."""

    def __init__(self, app: Flask) -> None:
        self.url_map = Map()
        self.views: dict[str, Callable[..., None]] = {}
        app.wsgi_app = SocketMiddleware(app.wsgi_app, app, self)  # type: ignore[method-assign]

    def route(self, rule: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def add(view: Callable[..., None]) -> Callable[..., None]:
            self.url_map.add(Rule(rule, endpoint=view.__name__, websocket=True))
            self.views[view.__name__] = view
            return view

        return add


class SocketMiddleware:
    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]], app: Flask, sockets: Sockets) -> None:
        self.wsgi_app = wsgi_app
        self.app = app
        self.sockets = sockets

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        adapter = self.sockets.url_map.bind_to_environ(environ)
        try:
            endpoint, values = adapter.match()
            websocket = environ["wsgi.websocket"]
        except (NotFound, KeyError):
            return self.wsgi_app(environ, start_response)
        with self.app.app_context(), self.app.request_context(environ):
            self.sockets.views[endpoint](websocket, **values)
        return []


app = Flask(__name__)
app.secret_key = "for tests only"
sockets = Sockets(app)
rooms: dict[str, list[Any]] = {}


@app.route("/login/<name>")
def login(name: str) -> str:
    session["name"] = name
    return f"hello {name}"


@sockets.route("/echo")
def echo(ws: Any) -> None:
    while not ws.closed:
        message = ws.receive()
        ws.send(message)


@sockets.route("/submit/<room>")
def submit(ws: Any, room: str) -> None:
    """The chat's way in; sending happens in greenlets of their own."""
    while not ws.closed:
        gevent.sleep(0.001)
        message = ws.receive()
        if message:
            for client in rooms.get(room, []):
                gevent.spawn(client.send, f"{session.get('name', 'nobody')}@{request.path}: {message}")


@sockets.route("/receive/<room>")
def receive(ws: Any, room: str) -> None:
    """The chat's way out: it neither sends nor receives here."""
    rooms.setdefault(room, []).append(ws)
    while not ws.closed:
        gevent.sleep(0.01)
    rooms[room].remove(ws)


@app.route("/view", websocket=True)
def view() -> tuple[str, int]:
    """A view of Flask's own that finds the socket in the environ."""
    ws = request.environ["wsgi.websocket"]
    ws.send("from a view")
    if request.args.get("fail"):
        raise RuntimeError("a view's mistake")
    return "", 200
