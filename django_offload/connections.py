"""What Django does around a request for databases and caches, done around a consumer, and after every request.

Django's signals `request_started` and `request_finished` are not sent for consumers: there is no request, and their
receivers may well look for one.

A connection belongs to the greenlet that opened it, and greenlets wait for their next task for any time. So none keeps
a connection meanwhile, whatever ``CONN_MAX_AGE`` says; a pool (``OPTIONS``) gets its own back. Not by Django's signal
after requests either: one that a `gevent.Timeout`, or whatever else is no `Exception`, has ended leaves no response
whose ``close()`` would send it, and the next request in its greenlet might read the answer to its query.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from django.core.cache import close_caches
from django.core.exceptions import ImproperlyConfigured
from django.db import connections


def driver_of(alias: str) -> str:
    """The module by which Django reaches a database; "" where that cannot be imported, of which Django itself tells.

    Also where there is none, as in the dummy backend of a project without a database.
    """
    try:
        driver: Any = getattr(connections[alias], "Database", None)
    except ImproperlyConfigured:
        return ""
    return str(getattr(driver, "__name__", ""))


def make_cooperative() -> None:
    """Let greenlets run while psycopg2 waits for PostgreSQL, where gevent has taken the standard library's place.

    It waits in C, and asks what else to do meanwhile; psycopg 3 notices gevent by itself.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("socket"):
        return
    if any(driver_of(alias) == "psycopg2" for alias in connections):
        from psycopg2 import extensions

        extensions.set_wait_callback(_wait)


def _wait(connection: Any, timeout: float | None = None) -> None:
    from gevent.socket import wait_read, wait_write
    from psycopg2 import OperationalError, extensions

    while (state := connection.poll()) != extensions.POLL_OK:
        if state == extensions.POLL_READ:
            wait_read(connection.fileno(), timeout=timeout)
        elif state == extensions.POLL_WRITE:
            wait_write(connection.fileno(), timeout=timeout)
        else:
            raise OperationalError(f"psycopg2 reports the unknown state {state}")


def before_consumer() -> None:
    """Forget the queries logged so far, and drop connections that broke or grew too old while idle."""
    for connection in connections.all(initialized_only=True):
        # Django's query-counting test helpers set this, and keep request_started from clearing the log likewise.
        if not connection.force_debug_cursor:
            connection.queries_log.clear()
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def give_back() -> None:
    """Give back the connections of databases and caches; each of them, also where another's end fails."""
    # Only a test's transaction is open out here; closing its connection would lose it, which is why Django's test
    # client keeps close_old_connections from running, too.
    open_ones = [
        connection
        for connection in connections.all(initialized_only=True)
        if connection.connection is not None and not connection.in_atomic_block
    ]
    try:
        if open_ones:
            with ExitStack() as stack:
                for connection in open_ones:
                    stack.callback(connection.close)
    finally:
        close_caches()
