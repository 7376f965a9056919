"""What Django does around a request for databases and caches, done around a consumer, and after every request.

Django's signals `request_started` and `request_finished` are not sent for consumers: there is no request, and their
receivers may well look for one.

A connection belongs to the greenlet that opened it, and greenlets wait for their next task for any time. So none keeps
a connection meanwhile, whatever ``CONN_MAX_AGE`` says; a pool (``OPTIONS``) gets its own back. Not by Django's signal
after requests either: one that a `gevent.Timeout`, or whatever else is no `Exception`, has ended leaves no response
whose ``close()`` would send it, and the next request in its greenlet might read the answer to its query.
"""

from __future__ import annotations

from contextlib import ExitStack

from django.core.cache import close_caches
from django.db import connections


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
