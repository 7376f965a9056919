"""P9: Channels 4. `python -m benchmarks.peers.channels_jobs fill`, and the same with `work` for its runworker."""

from __future__ import annotations

import os
import sys
from typing import Any

import django
from django.conf import settings

if not settings.configured:  # runworker imports the application from here a second time, by its name
    # Why the host's two limits: see channels_app.py. The capacity is for all messages, as they wait for the worker.
    host = {"address": os.environ["BENCHMARK_REDIS"], "max_connections": 1_000_000, "socket_timeout": None}
    settings.configure(
        SECRET_KEY="for a benchmark",
        INSTALLED_APPS=["channels"],
        ASGI_APPLICATION="benchmarks.peers.channels_jobs.application",
        CHANNEL_LAYERS={
            "default": {
                "BACKEND": "channels_redis.core.RedisChannelLayer",
                "CONFIG": {"hosts": [host], "capacity": 1_000_000},
            }
        },
    )
    django.setup()

from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.core.management import call_command

from benchmarks.peers.jobs import TEXT, TOTAL, count


class Jobs(SyncConsumer):
    def job_run(self, event: dict[str, Any]) -> None:
        count(event["text"])


application = ProtocolTypeRouter({"channel": ChannelNameRouter({"jobs": Jobs.as_asgi()})})


async def fill() -> None:
    layer = get_channel_layer()
    for _ in range(TOTAL):
        await layer.send("jobs", {"type": "job.run", "text": TEXT})


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        async_to_sync(fill)()
    else:
        call_command("runworker", "jobs")
