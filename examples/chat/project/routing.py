from chat.consumers import ws_connect, ws_disconnect, ws_receive

from offload import route

ROOM = r"^/chat/(?P<room>[-a-zA-Z0-9_]{1,50})/$"

channel_routing = [
    route("websocket.connect", ws_connect, path=ROOM),
    route("websocket.receive", ws_receive, path=ROOM),
    route("websocket.disconnect", ws_disconnect, path=ROOM),
]
