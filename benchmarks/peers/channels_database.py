"""P7: Channels 4, for uvicorn: a synchronous consumer with Django's connections, an asynchronous one with psycopg's.

Reads BENCHMARK_POSTGRES (the directory of the database's socket) from the environment.
"""

from __future__ import annotations

import os

import django
from django.conf import settings

from benchmarks.apps.database import CONNECTIONS, WAIT, databases, wait

settings.configure(SECRET_KEY="for a benchmark", ALLOWED_HOSTS=["127.0.0.1"], DATABASES=databases(), USE_TZ=True)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer  # noqa: E402 (configured first)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402
from psycopg_pool import AsyncConnectionPool  # noqa: E402

pool = AsyncConnectionPool(
    f"host={os.environ['BENCHMARK_POSTGRES']} user=postgres dbname=postgres",
    min_size=CONNECTIONS,
    max_size=CONNECTIONS,
    open=False,
    kwargs={"autocommit": True},
)


class Wait(WebsocketConsumer):
    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        wait()
        self.send(text_data=text_data)


class AsyncWait(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        # Opened in the server's loop, once.
        await pool.open()
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async with pool.connection() as connection:
            cursor = await connection.execute(WAIT)
            await cursor.fetchone()
        await self.send(text_data=text_data)


application = ProtocolTypeRouter(
    {"websocket": URLRouter([path("wait", Wait.as_asgi()), path("async-wait", AsyncWait.as_asgi())])}
)
