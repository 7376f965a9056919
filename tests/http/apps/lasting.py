"""An application that leaves something behind in the greenlet of a request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.local
from gevent.event import Event
from greenlet import getcurrent

_local, _thread_local = gevent.local.local(), threading.local()


class _Waiting(logging.Handler):
    """Waits, as one that sends the log elsewhere, until an exception ends that; and fails for what the loop logs."""

    def emit(self, record: logging.LogRecord) -> None:
        if "/fails" in record.getMessage():
            Event().wait()
        elif "the request line is not" in record.getMessage():
            raise RuntimeError("the log is full")


logging.getLogger("offload.http").addHandler(_Waiting())


def _leave(kind: str) -> None:
    me = getcurrent()
    in_next_turn = gevent.get_hub().loop.run_callback
    if kind == "timeout":
        gevent.Timeout(0.01).start()
    elif kind == "kill":
        in_next_turn(gevent.kill, me)
    elif kind == "throw":
        in_next_turn(me.throw, RuntimeError("thrown late"))
    elif kind == "switch":
        in_next_turn(me.switch)
    elif kind == "switch-with-two":
        in_next_turn(me.switch, "one", "two")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path, kind = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/leaves":
        _leave(kind)
    elif path == "/waits":
        # Until after the time of a request before it.
        gevent.sleep(0.05)
    elif path == "/fails":
        gevent.Timeout(0.01).start()
        raise ValueError("too bad")
    elif path == "/both-local":
        told = f"{getattr(_local, 'user', None)} {getattr(_thread_local, 'user', None)}"
        _local.user = _thread_local.user = kind
        start_response("200 OK", [])
        return [told.encode()]
    start_response("200 OK", [("Content-Length", "4")])
    return [b"here"]
