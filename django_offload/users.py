"""Whose connections are whose: logged-in users' connections, and what ends them.

Each connection of a user is in the group of `offload.User`; each one that is to end with its session is in a group of
that session. Any process that sees the login end closes them by a message to the group.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.backends.file import SessionStore as FileStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.core import signing
from django.db import transaction
from django.db.models import signals
from django.utils import timezone

from django_offload.connections import give_back
from django_offload.settings import value_of
from offload import Group, at_fork
from offload.consumers.configuration import layer_for
from offload.consumers.user import LOGGED_OUT, User
from offload.exceptions import OffloadError

log = logging.getLogger("offload.websocket")

LOOK_SECONDS = 600.0
"""The longest time between two looks at a session that is followed: it may have been deleted."""


def connect_signals() -> None:
    """Hear of what ends logins; once the apps are loaded."""
    user_logged_out.connect(_logged_out, dispatch_uid="django_offload")
    model = get_user_model()
    signals.pre_save.connect(_before_save, sender=model, dispatch_uid="django_offload")
    signals.post_save.connect(_after_save, sender=model, dispatch_uid="django_offload")
    signals.post_delete.connect(_deleted, sender=model, dispatch_uid="django_offload")


def join(request: Any, reply_channel: str) -> None:
    """Make a connection its user's, as the settings say: for each handshake, in the middleware.

    Args:
        request: as it came through the middleware.
        reply_channel: the connection's.
    """
    if not value_of("USERS"):
        return
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return
    User(user.pk).add(reply_channel)
    ends = value_of("DISCONNECT_AT")
    session = getattr(request, "session", None)
    if session is not None and session.session_key and ("logout" in ends or "session_expiry" in ends):
        follow_session(session.session_key, reply_channel)
        if "session_expiry" in ends:
            _watcher.watch(session)


def follow_session(session_key: str, reply_channel: str) -> None:
    """Have a connection closed when the login of a session ends."""
    _group_of(session_key).add(reply_channel)


def _group_of(session_key: str) -> Group:
    # A key lets whoever reads it in: it is not to be read in the layer.
    return Group(f"offload.session.{hashlib.sha256(session_key.encode()).hexdigest()[:48]}")


def _close(group: Group, why: str) -> None:
    try:
        group.send({"close": LOGGED_OUT})
    except OffloadError as error:
        # Whoever logs out must not be kept from it.
        log.warning("connections stay open after %s: %s", why, error)


def _logged_out(*, request: Any, **kwargs: Any) -> None:
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key:
        _close(_group_of(key), "a logout")


def _before_save(*, instance: Any, update_fields: Iterable[str] | None, using: str, **kwargs: Any) -> None:
    ends = value_of("DISCONNECT_AT")
    watched = {"password": "password_change", "is_active": "deactivation"}
    fields = [
        field
        for field, end in watched.items()
        if end in ends and hasattr(instance, field) and (update_fields is None or field in update_fields)
    ]
    if not fields or instance.pk is None:
        return
    before = type(instance)._default_manager.using(using).filter(pk=instance.pk).values(*fields).first()
    instance._offload_login_ends = before is not None and (
        ("password" in fields and before["password"] != instance.password)
        or ("is_active" in fields and before["is_active"] and not instance.is_active)
    )


def _after_save(*, instance: Any, using: str, **kwargs: Any) -> None:
    if instance.__dict__.pop("_offload_login_ends", False):
        _disconnect_after_commit(instance.pk, using)


def _deleted(*, instance: Any, using: str, **kwargs: Any) -> None:
    if "deactivation" in value_of("DISCONNECT_AT"):
        _disconnect_after_commit(instance.pk, using)


def _disconnect_after_commit(pk: Any, using: str) -> None:
    transaction.on_commit(lambda: _close(User(pk).group, f"a change of user {pk}"), using=using)


def _remaining(session: SessionBase) -> float:
    """Seconds until a session expires; where its backend does not tell that, the most that it may have."""
    if isinstance(session, DatabaseStore):
        ends = session.model.objects.filter(session_key=session.session_key).values_list("expire_date", flat=True)
        if ends:
            return float((ends[0] - timezone.now()).total_seconds())
    elif isinstance(session, CookieStore) and session.session_key:
        # Django takes one for so long, whatever `set_expiry` was told: its cookie is to end in the browser.
        signed = signing.b62_decode(session.session_key.rsplit(":", 2)[-2])
        passed = time.time() - signed
        age = session.get_expiry_age(modification=timezone.now() - timedelta(seconds=passed))
        return float(min(age, settings.SESSION_COOKIE_AGE) - passed)
    elif isinstance(session, FileStore):
        # So long after its last change, as in a database; Django itself takes one with a number of seconds for ever.
        try:
            changed = session._last_modification()  # type: ignore[attr-defined]
        except FileNotFoundError:
            return 0.0
        return float((session.get_expiry_date(modification=changed) - timezone.now()).total_seconds())
    return float(session.get_expiry_age())


class _SessionWatcher:
    """Closes the connections of sessions that expire: one thread (a greenlet, in a server) for all of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: list[tuple[float, str]] = []
        self._keys: dict[str, bool] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, session: SessionBase) -> None:
        """Look at a session when it may have expired."""
        key = session.session_key
        if key is None or key in self._keys:
            return
        seconds = _remaining(session)
        with self._lock:
            if key in self._keys:
                return
            # Where a worker runs the consumers, the connection is another process's, and cannot be asked for here.
            self._keys[key] = self._has_members(key)
            heapq.heappush(self._due, (time.monotonic() + min(seconds, LOOK_SECONDS), key))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="offload-sessions", daemon=True)
                self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._thread = None
                    return
                seconds = self._due[0][0] - time.monotonic()
            if seconds > 0:
                self._wake.wait(seconds)
                self._wake.clear()
                continue
            with self._lock:
                _, key = heapq.heappop(self._due)
            try:
                self._look(key)
            except Exception:
                log.exception("a session could not be looked at; its connections stay open until the next look")
                self._again(key, LOOK_SECONDS)
            finally:
                give_back()

    def _look(self, key: str) -> None:
        if self._keys[key] and not self._has_members(key):
            # Its connections are gone.
            with self._lock:
                del self._keys[key]
            return
        session: SessionBase = import_module(settings.SESSION_ENGINE).SessionStore(key)
        # Loaded, one that was deleted is empty; and what is used meanwhile may live for longer.
        if session.get(SESSION_KEY) is not None and (seconds := _remaining(session)) > 0:
            self._again(key, min(seconds, LOOK_SECONDS))
            return
        with self._lock:
            del self._keys[key]
        _close(_group_of(key), "the end of a session")

    def _again(self, key: str, seconds: float) -> None:
        with self._lock:
            heapq.heappush(self._due, (time.monotonic() + seconds, key))

    @staticmethod
    def _has_members(key: str) -> bool:
        subscriptions = getattr(layer_for(), "subscriptions", None)
        return subscriptions is not None and bool(subscriptions.has_members(_group_of(key).name))


_watcher = _SessionWatcher()


def _after_fork() -> None:
    # The thread is the parent's, as are the connections; the lock may have been held.
    global _watcher
    _watcher = _SessionWatcher()


at_fork.in_child(_after_fork)
