"""An echo at /echo, and a room at /room: ``offload examples.echo.app -b 127.0.0.1:9001``."""

from offload import Group, route


def application(environ, start_response):
    text = b"This is offload's echo: open a WebSocket at /echo or /room.\n"
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
    return [text]


def said(message):
    return {kind: message[kind] for kind in ("text", "bytes") if message.get(kind) is not None}


def echo(message):
    message.reply_channel.send(said(message))


def enter(message):
    Group("room").add(message.reply_channel)


def say(message):
    Group("room").send(said(message))


def leave(message):
    Group("room").discard(message.reply_channel)


channel_routing = [
    route("websocket.receive", echo, path=r"^/echo$"),
    route("websocket.connect", enter, path=r"^/room$"),
    route("websocket.receive", say, path=r"^/room$"),
    route("websocket.disconnect", leave, path=r"^/room$"),
]
