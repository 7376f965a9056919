"""What Django does around a request for databases and caches, done around a consumer.

Django's signals `request_started` and `request_finished` are not sent: there is no request, and their receivers may
well look for one.
"""

from __future__ import annotations

from django.core.cache import close_caches
from django.db import connections


def before_consumer() -> None:
    """Forget the queries logged so far, and drop connections that broke or grew too old while idle."""
    for connection in connections.all(initialized_only=True):
        # Django's query-counting test helpers set this, and keep request_started from clearing the log likewise.
        if not connection.force_debug_cursor:
            connection.queries_log.clear()
    _close_old_connections()


def after_consumer() -> None:
    """Drop connections as CONN_MAX_AGE says, and let the caches give back theirs."""
    _close_old_connections()
    close_caches()


def _close_old_connections() -> None:
    for connection in connections.all(initialized_only=True):
        # Only a test's transaction is open out here; closing its connection would lose it, which is why Django's
        # test client keeps close_old_connections from running, too.
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
