"""Coroutines inside greenlets: each greenlet has a running loop of its own, so that none meets another's."""

from __future__ import annotations

import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.serving import DEADLINE, ROOT, Server, serving

REST = """
import asyncio

async def rest():
    await asyncio.sleep(0.01)
"""

SITE = """
import contextvars, os
import gevent
from django.conf import settings
settings.configure(
    SECRET_KEY="x" * 50, ALLOWED_HOSTS=["*"], ROOT_URLCONF="site_", USE_TZ=True, LOGGING_CONFIG=None,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_offload"],
    CHANNEL_LAYERS={"default": {"BACKEND": "offload.layers.memory.MemoryLayer", "ROUTING": "site_.channel_routing"}},
)
import django
django.setup()
from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from offload import route

async def pause(name):
    mine = contextvars.ContextVar("mine")
    mine.set(name)
    task = asyncio.current_task()
    await asyncio.gather(rest(), asyncio.create_task(rest()))
    async with asyncio.Lock():
        await asyncio.wait_for(rest(), 5)
    assert asyncio.current_task() is task and mine.get() == name
    return name

def users():
    from django.contrib.auth.models import User
    return User.objects.count()

async def async_view(request, name):
    await pause(name)
    return HttpResponse(f"{name} {await sync_to_async(users)()}")

def orm_view(request, name):
    # Waits, as for a thread of its driver's.
    gevent.get_hub().threadpool.apply(os.getpid)
    return HttpResponse(f"{name} {users()}")

def to_sync_view(request, name):
    return HttpResponse(f"{async_to_sync(pause)(name)} {users()}")

def run_view(request, name):
    return HttpResponse(f"{asyncio.run(pause(name))} {users()}")

async def stream_view(request, name):
    async def pieces():
        yield await pause(name)
        yield f" {await sync_to_async(users)()}"
    return StreamingHttpResponse(pieces())

def ws_receive(message):
    name = async_to_sync(pause)(message["text"])
    message.reply_channel.send({"text": f"{name} {users()}"})

channel_routing = [route("websocket.receive", ws_receive)]
views = (async_view, orm_view, to_sync_view, run_view, stream_view)
urlpatterns = [path(f"{view.__name__}/<name>", view) for view in views]

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
if not os.path.exists("db.sqlite3"):
    call_command("migrate", verbosity=0)
application = get_wsgi_application()
"""

WORKER = """
from offload import Channel, route

async def pause(name):
    await asyncio.gather(rest(), asyncio.create_task(rest()))
    return name

def consume(message):
    name = asyncio.run(pause(message["name"]))
    message.reply_channel.send({"text": str(name)})

def ws_receive(message):
    Channel("jobs").send({"name": message["text"], "reply_channel": message.reply_channel.name})

channel_routing = [route("websocket.receive", ws_receive), route("jobs", consume)]
application = None.__class__
"""

KINDS = ("async_view", "orm_view", "to_sync_view", "run_view", "stream_view", "consumer")


def ask(server: Server, number: int) -> tuple[str, str]:
    """What was asked for and what came."""
    kind = KINDS[number % len(KINDS)]
    if kind == "consumer":
        with connect(server.url("/", "ws")) as websocket:
            websocket.send(f"{number}")
            return f"{number} 0", str(websocket.recv(DEADLINE))
    with urllib.request.urlopen(server.url(f"/{kind}/{number}"), timeout=DEADLINE) as answer:
        return f"{number} 0", answer.read().decode()


@pytest.mark.chaos("R10: coroutines and plain views run side by side")
def test_coroutines_by_the_hundred_are_answered_right_beside_plain_views_and_consumers(tmp_path: Path) -> None:
    (tmp_path / "site_.py").write_text(REST + SITE)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving("site_", cwd=tmp_path, env=env) as server:
        with ThreadPoolExecutor(60) as clients:
            answers = list(clients.map(lambda number: ask(server, number), range(300)))
        assert [came for _, came in answers] == [due for due, _ in answers]
    assert "Traceback" not in server.log


@pytest.mark.parametrize("count", [40])
@pytest.mark.chaos("R10: coroutines and plain views run side by side")
def test_workers_consumers_run_coroutines_side_by_side(tmp_path: Path, count: int) -> None:
    (tmp_path / "jobs_.py").write_text(REST + WORKER)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")}
    with (
        serving("jobs_", cwd=tmp_path, env=env) as server,
        serving("worker", "jobs_", cwd=tmp_path, env=env) as worker,
    ):
        came: list[str] = []

        def talk(number: int) -> None:
            with connect(server.url("/", "ws")) as websocket:
                websocket.send(str(number))
                came.append(str(websocket.recv(DEADLINE)))

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(came, key=int) == [str(number) for number in range(count)]
    assert "Traceback" not in server.log + worker.log
