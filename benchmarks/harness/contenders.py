"""How to start each server: one process, access log off, the defaults that its users would have."""

from __future__ import annotations

import dataclasses

from benchmarks.harness.model import OURS, Contender

_CHANNELS = ("channels", "channels-redis")


def offload(
    app: str, path: str = "/", *, redis: bool = False, options: tuple[str, ...] = (), needs: tuple[str, ...] = ()
) -> Contender:
    layer = ("--layer", "{redis_url}") if redis else ()
    return Contender(
        name=OURS,
        label="offload",
        command=(
            "{bin}/offload", app, "-b", "127.0.0.1:{port}", "-w", "1", "--log-level", "warning", *layer, *options,
        ),
        path=path,
        packages=("django-offload", "gevent", *needs),
        redis=redis,
    )  # fmt: skip


def limit(path: str, *files: str) -> Contender:
    return Contender("c-limit", "C limit", ("{build}/limit", "{port}", *files), path, runtime="native")


def channels_uvicorn(path: str) -> Contender:
    return Contender(
        name="channels-uvicorn",
        label="Channels on uvicorn",
        command=(
            "{bin}/uvicorn", "benchmarks.peers.channels_app:application", "--host", "127.0.0.1", "--port", "{port}",
            "--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning",
        ),
        path=path,
        environment={"BENCHMARK_REDIS": "{redis_url}"},
        packages=(*_CHANNELS, "uvicorn", "uvloop", "httptools", "websockets"),
        redis=True,
    )  # fmt: skip


def django_uvicorn(app: str, path: str, *, name: str, label: str) -> Contender:
    return Contender(
        name=name,
        label=label,
        command=(
            "{bin}/uvicorn", f"{app}:application", "--host", "127.0.0.1", "--port", "{port}", "--http", "httptools",
            "--loop", "uvloop", "--no-access-log", "--log-level", "warning", "--lifespan", "off",
        ),
        path=path,
        packages=("django", "uvicorn", "uvloop", "httptools"),
    )  # fmt: skip


def channels_uvicorn_async(path: str) -> Contender:
    return dataclasses.replace(
        channels_uvicorn(path), name="channels-uvicorn-async", label="Channels on uvicorn, async consumer"
    )


def channels_uvicorn_pubsub(path: str) -> Contender:
    return dataclasses.replace(
        channels_uvicorn(path),
        name="channels-uvicorn-pubsub",
        label="Channels on uvicorn, async consumer, pub/sub layer",
        environment={
            "BENCHMARK_REDIS": "{redis_url}",
            "BENCHMARK_LAYER": "channels_redis.pubsub.RedisPubSubChannelLayer",
        },
    )


def channels_daphne(path: str) -> Contender:
    return Contender(
        name="channels-daphne",
        label="Channels on Daphne",
        command=(
            "{bin}/daphne",
            "-b",
            "127.0.0.1",
            "-p",
            "{port}",
            "-v",
            "0",
            "benchmarks.peers.channels_app:application",
        ),
        path=path,
        environment={"BENCHMARK_REDIS": "{redis_url}"},
        packages=(*_CHANNELS, "daphne"),
        redis=True,
    )


def node_ws(path: str, *, redis: bool = False) -> Contender:
    return Contender(
        name="node-ws",
        label="Node ws + ioredis" if redis else "Node ws",
        command=("{node}", "{suite}/peers/node/server.js", "{port}", *(("{redis_port}",) if redis else ())),
        path=path,
        environment={"NODE_ENV": "production"},
        packages=("ws", "ioredis") if redis else ("ws",),
        runtime="node",
        redis=redis,
    )


def gunicorn(
    name: str,
    label: str,
    app: str,
    path: str,
    worker: str,
    *options: str,
    needs: tuple[str, ...] = (),
    accelerators: tuple[str, ...] = (),
) -> Contender:
    return Contender(
        name=name,
        label=label,
        command=(
            "{bin}/gunicorn", app, "-b", "127.0.0.1:{port}", "-w", "1", "-k", worker, "--log-level", "warning",
            "--no-control-socket", *options,
        ),
        path=path,
        packages=("gunicorn", *needs),
        accelerators=accelerators,
    )  # fmt: skip


def gevent_websocket(path: str, app: str = "benchmarks.peers.gevent_websocket_app") -> Contender:
    return gunicorn(
        "gevent-websocket",
        "gevent-websocket on gunicorn",
        app,
        path,
        "geventwebsocket.gunicorn.workers.GeventWebSocketWorker",
        needs=("gevent-websocket", "gevent"),
        accelerators=("wsaccel",),
    )


def granian(app: str) -> Contender:
    return Contender(
        name="granian",
        label="granian, WSGI",
        command=(
            "{bin}/granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1",
            "--no-access-log", "--log-level", "warning", app,
        ),
        packages=("granian",),
    )  # fmt: skip


def pywsgi() -> Contender:
    return Contender(
        name="pywsgi",
        label="gevent.pywsgi",
        command=("{bin}/python", "-m", "benchmarks.peers.pywsgi_server", "{port}"),
        packages=("gevent",),
    )
