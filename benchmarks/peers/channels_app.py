"""Channels 4, for uvicorn and Daphne: echo, chat room and messages to one, as synchronous and asynchronous consumers.

Reads BENCHMARK_REDIS (a URL) and BENCHMARK_LAYER (a class of channels_redis) from the environment.
"""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings

# redis-py 8 by default ends reads after 5 s, as long as channels_redis waits for a message, and limits its connections:
# consumers then died of TimeoutError and MaxConnectionsError. Without both limits it is as with older redis-py.
HOST = {
    "address": os.environ.get("BENCHMARK_REDIS", "redis://127.0.0.1:6379/0"),
    "max_connections": 1_000_000,
    "socket_timeout": None,
}

settings.configure(
    SECRET_KEY="for a benchmark",
    ALLOWED_HOSTS=["127.0.0.1"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": os.environ.get("BENCHMARK_LAYER", "channels_redis.core.RedisChannelLayer"),
            "CONFIG": {"hosts": [HOST]},
        }
    },
)
django.setup()

from asgiref.sync import async_to_sync  # noqa: E402 (Django has to be configured first)
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class Echo(WebsocketConsumer):
    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=text_data)


class AsyncEcho(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data)


class Room(WebsocketConsumer):
    groups = ["room"]

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async_to_sync(self.channel_layer.group_send)("room", {"type": "room.message", "text": text_data})

    def room_message(self, event: dict[str, Any]) -> None:
        self.send(text_data=event["text"])


class AsyncRoom(AsyncWebsocketConsumer):
    groups = ["room"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "room.message", "text": text_data})

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class Direct(WebsocketConsumer):
    def connect(self) -> None:
        self.accept()
        self.send(text_data=self.channel_name)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        assert text_data is not None
        name, _, text = text_data.partition("\n")
        async_to_sync(self.channel_layer.send)(name, {"type": "direct.message", "text": text})

    def direct_message(self, event: dict[str, Any]) -> None:
        self.send(text_data=event["text"])


class AsyncDirect(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()
        await self.send(text_data=self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        assert text_data is not None
        name, _, text = text_data.partition("\n")
        await self.channel_layer.send(name, {"type": "direct.message", "text": text})

    async def direct_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


application = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [
                path("echo", Echo.as_asgi()),
                path("async-echo", AsyncEcho.as_asgi()),
                path("room", Room.as_asgi()),
                path("async-room", AsyncRoom.as_asgi()),
                path("direct", Direct.as_asgi()),
                path("async-direct", AsyncDirect.as_asgi()),
            ]
        )
    }
)
