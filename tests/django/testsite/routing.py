from typing import Any

from offload import route


def keep(message: Any) -> None:
    pass


channel_routing = [route("websocket.receive", keep, path="^/keep$")]
