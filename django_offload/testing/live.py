"""A live server for browsers' tests: offload in a thread of the test's process, with its settings, layers and database.

The thread has a loop of its own and the standard library as it is: a consumer that waits holds up the others, which a
test does not notice, and an in-memory database is shared as Django's own live server does it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gevent
from django.apps import apps
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.test import LiveServerTestCase, modify_settings
from django.test.testcases import LiveServerThread
from gevent.event import Event

from django_offload.testing.layers import memory_layers
from offload.consumers.configuration import router_for
from offload.server import control
from offload.server.load import SharedLoad
from offload.server.process import ServerProcess
from offload.settings import Settings


class OffloadThread(LiveServerThread):
    """Serves HTTP and WebSockets until it is terminated."""

    _stopped: Any = None

    def run(self) -> None:
        """Serve, in the thread."""
        for alias, connection in (self.connections_override or {}).items():
            connections[alias] = connection
        try:
            with socket.create_server((self.host, self.port)) as listening, contextlib.ExitStack() as stack:
                self.port = listening.getsockname()[1]
                listening.setblocking(False)
                pair = control.pair()
                for end in pair:
                    stack.enter_context(end.sock)
                load = SharedLoad(1)
                server = ServerProcess(_settings(), [listening], pair[1], load.slot(load.take()))
                server.wire(self.static_handler(WSGIHandler()), router_for())
                self._loop, self._stopped = gevent.get_hub().loop, Event()
                server.start()
                self.is_ready.set()
                self._stopped.wait()
                server.stop()
        except Exception as error:  # noqa: BLE001 -- raised by the test case, in the thread that waits for this one
            self.error = error  # type: ignore[assignment]
            self.is_ready.set()
        finally:
            connections.close_all()
            gevent.get_hub().destroy(destroy_loop=True)

    def terminate(self) -> None:
        """Stop, and wait until it has."""
        if self._stopped is not None:
            self._loop.run_callback_threadsafe(self._stopped.set)
        self.join()


def _settings() -> Settings:
    return Settings.of("live", {"graceful_timeout": 5.0, "drain_timeout": 0.0}, {})


@dataclass(frozen=True)
class LiveServer:
    """A live server that runs.

    Attributes:
        host, port: where it listens.
    """

    host: str
    port: int

    @property
    def url(self) -> str:
        """The address of its pages."""
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """The address of its WebSockets."""
        return f"ws://{self.host}:{self.port}"


@contextlib.contextmanager
def live_server(host: str = "localhost") -> Iterator[LiveServer]:
    """Serve for a while, as `ChannelLiveServerTestCase` does, with the layers that are configured."""
    shared = {
        connection.alias: connection
        for connection in connections.all()
        if connection.vendor == "sqlite" and connection.is_in_memory_db()  # type: ignore[attr-defined]
    }
    thread = OffloadThread(host, _static_handler(), shared)
    thread.daemon = True
    with contextlib.ExitStack() as stack:
        stack.enter_context(modify_settings(ALLOWED_HOSTS={"append": host}))
        for connection in shared.values():
            connection.inc_thread_sharing()
            stack.callback(connection.dec_thread_sharing)
        thread.start()
        stack.callback(thread.terminate)
        thread.is_ready.wait()
        if thread.error is not None:
            raise thread.error
        yield LiveServer(host, thread.port)


def _static_handler() -> Any:
    return StaticFilesHandler if apps.is_installed("django.contrib.staticfiles") else _as_it_is


def _as_it_is(application: Any) -> Any:
    return application


class ChannelLiveServerTestCase(LiveServerTestCase):
    """A live server that speaks WebSocket, at ``live_server_url`` and ``live_server_ws_url``.

    It serves static files as ``runserver`` does, where ``django.contrib.staticfiles`` is installed. What the test sends
    through `Channel` and `Group` reaches its clients.
    """

    server_thread_class = OffloadThread

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server, with layers in memory."""
        if apps.is_installed("django.contrib.staticfiles"):
            cls.static_handler = StaticFilesHandler
        layers = memory_layers()
        layers.__enter__()
        cls.addClassCleanup(layers.__exit__, None, None, None)
        super().setUpClass()

    @classmethod
    def live_server_ws_url(cls, path: str = "") -> str:
        """The address of a WebSocket at this path."""
        return cls.live_server_url.replace("http", "ws", 1) + path
