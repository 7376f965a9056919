"""What Django does around a request for databases and caches, done around a consumer.

Django's signals `request_started` and `request_finished` are not sent: there is no request, and their receivers may
well look for one.

A connection belongs to the greenlet that opened it, and greenlets wait for their next task for any time. So none keeps
a connection meanwhile, whatever ``CONN_MAX_AGE`` says; a pool (``OPTIONS``) gets its own back.
"""

from __future__ import annotations

import sys
from typing import Any

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


def after_consumer() -> None:
    """Give back the connections of databases and caches."""
    _close_connections()
    close_caches()


def after_request(**kwargs: Any) -> None:
    """The same for databases after a request, where it ran in a greenlet; Django itself closes the caches'."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        _close_connections()


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        # Only a test's transaction is open out here; closing its connection would lose it, which is why Django's
        # test client keeps close_old_connections from running, too.
        if not connection.in_atomic_block:
            connection.close()
