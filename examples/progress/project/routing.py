from primes.consumers import count, ws_connect

from offload import route

channel_routing = [
    route("websocket.connect", ws_connect, path=r"^/$"),
    route("primes.count", count),
]
