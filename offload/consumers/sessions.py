"""Channel sessions: a dict that belongs to one connection and lives in the layer.

Read from the layer when first used, written back after the consumer when changed, gone with the connection if any of
its messages was given it. Any process that knows the reply channel can read and save it.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator, MutableMapping
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from offload.consumers import configuration
from offload.consumers.message import message_among
from offload.exceptions import OffloadError
from offload.interfaces import Content, Layer
from offload.observe.log_lines import SafeLogger

log = SafeLogger("offload.consumer")

F = TypeVar("F", bound=Callable[..., Any])


EXPIRY_KEY = "_session_expiry"
"""Where Django's sessions keep what `set_expiry` was told."""


class ChannelSession(MutableMapping[str, Any]):
    """One connection's session, with the methods of Django's sessions that apply to it.

    Its values are what messages may carry. Saving makes of them what Django's JSON does: tuples become lists, and keys
    that are None, numbers or booleans become their JSON texts.

    Args:
        layer: where it lives.
        reply_channel: the name of the connection's reply channel.

    Attributes:
        session_key: that name. No client knows it, so it stays the same for the whole connection.
    """

    def __init__(self, layer: Layer, reply_channel: str) -> None:
        self._layer = layer
        self.session_key = reply_channel
        self._data: Content | None = None
        self._saved: Content = {}
        self._is_marked = False

    @property
    def _loaded(self) -> Content:
        if self._data is None:
            self._data = self.load()
            # Changes inside nested values count as changes, and only a copy shows them.
            self._saved = copy.deepcopy(self._data)
        return self._data

    @property
    def accessed(self) -> bool:
        """Whether it has been read or written."""
        return self._data is not None

    @property
    def modified(self) -> bool:
        """Whether it differs from what the layer has, as far as this object knows; or was said to."""
        return self._is_marked or (self._data is not None and not _is_same(self._data, self._saved))

    @modified.setter
    def modified(self, value: bool) -> None:
        self._is_marked = value

    def load(self) -> Content:
        """What the layer has now; this object keeps its own values."""
        return self._layer.session_load(self.session_key) or {}

    def save(self, must_create: bool = False) -> None:
        """Write it to the layer now; it stays there for `get_expiry_age` seconds.

        Args:
            must_create: accepted for code written for Django's sessions; nobody else has this session's key.
        """
        data = _as_json(self._loaded)
        if (age := self.get_expiry_age()) > 0:
            self._layer.session_save(self.session_key, data, age)
        else:
            self._layer.session_delete(self.session_key)
        self._saved = copy.deepcopy(self._loaded)
        self._is_marked = False

    def create(self) -> None:
        """Make it exist in the layer, empty."""
        self.clear()
        self.save()

    def delete(self, session_key: str | None = None) -> None:
        """Remove it (or the session of another reply channel) from the layer."""
        self._layer.session_delete(self.session_key if session_key is None else session_key)

    def flush(self) -> None:
        """Remove all values, here and in the layer."""
        self.delete()
        self._data, self._saved = {}, {}
        self._is_marked = False

    def cycle_key(self) -> None:
        """Nothing: Django makes a new key where a client may know the old one, and none knows this."""

    def exists(self, session_key: str) -> bool:
        """Whether the layer has a session of this key."""
        return self._layer.session_load(session_key) is not None

    def is_empty(self) -> bool:
        """Whether it has no values."""
        return not self._loaded

    def has_key(self, key: str) -> bool:
        """Whether it has a value of this name."""
        return key in self._loaded

    def set_expiry(self, value: float | datetime | timedelta | None) -> None:
        """How long it stays in the layer after its connection's messages have saved it for the last time.

        Args:
            value: seconds after each save, a moment, or the time from now to that moment; None, or 0, for the layer's
                ``group_expiry``.
        """
        if value is None:
            self.pop(EXPIRY_KEY, None)
            return
        if isinstance(value, timedelta):
            value = datetime.now(timezone.utc) + value
        self[EXPIRY_KEY] = value.isoformat() if isinstance(value, datetime) else value

    def get_expiry_age(self) -> float:
        """Seconds for which a save keeps it; none are left where it is zero or less."""
        expiry = self.get(EXPIRY_KEY)
        if not expiry:
            return self._layer.group_expiry
        if isinstance(expiry, str):
            # A moment without a time zone is local time, as everywhere in Python.
            return (datetime.fromisoformat(expiry).astimezone() - datetime.now(timezone.utc)).total_seconds()
        return float(expiry)

    def get_expiry_date(self) -> datetime:
        """When a save of this moment ends, in UTC."""
        return datetime.now(timezone.utc) + timedelta(seconds=self.get_expiry_age())

    def __getitem__(self, key: str) -> Any:
        return self._loaded[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._loaded[key] = value

    def __delitem__(self, key: str) -> None:
        del self._loaded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def __repr__(self) -> str:
        return f"ChannelSession({self._loaded!r})"


def session_for_reply_channel(reply_channel: str, alias: str = configuration.DEFAULT) -> ChannelSession:
    """The session of a connection, from any process; call `save` to keep changes.

    It goes with a connection whose own consumers use `channel_session`; otherwise, and when it is saved after the
    connection's end, it stays for the layer's ``group_expiry``.
    """
    return ChannelSession(configuration.layer_for(alias), str(reply_channel))


def channel_session(consumer: F) -> F:
    """Give the consumer ``message.channel_session``, and save it afterwards when it was changed.

    The consumer may be a function or a method; the message is the first of its positional arguments that is one.
    """

    @functools.wraps(consumer)
    def with_session(*args: Any, **kwargs: Any) -> Any:
        message = message_among(args)
        if message.channel_session is not None:
            return consumer(*args, **kwargs)
        if message.reply_channel is None:
            raise ValueError(
                f"a message on {message.channel_name!r} has no reply channel, so it has no channel session; "
                "channel_session serves websocket consumers and messages sent with a reply_channel"
            )
        session = ChannelSession(message.channel_layer or configuration.layer_for(), message.reply_channel.name)
        message.channel_session = session
        if message._connection is not None:
            # Now, whoever saves it, and when: the consumer itself, something it started, or another process.
            message._connection.has_session = True
        try:
            result = consumer(*args, **kwargs)
        except BaseException:
            try:
                _save(session)
            except Exception:
                # What the consumer raised may be a refusal, and stands.
                log.exception("the session of %s could not be saved", session.session_key)
            raise
        _save(session)
        return result

    return with_session  # type: ignore[return-value]


def drop_session(layer: Layer, reply_channel: str) -> None:
    """Forget a connection's session; without the layer it stays until it expires."""
    try:
        layer.session_delete(reply_channel)
    except OffloadError as error:
        log.warning("the session of %s stays until it expires: %s", reply_channel, error)


def renew_session(layer: Layer, reply_channel: str) -> None:
    """Keep a connection's session; without the layer it stays as long as it would have."""
    try:
        layer.session_renew(reply_channel, layer.group_expiry)
    except OffloadError as error:
        log.warning("the session of %s was not renewed: %s", reply_channel, error)


def _save(session: ChannelSession) -> None:
    if session.modified:
        session.save()


def _as_json(value: Any) -> Any:
    """As Django's sessions come back from their JSON; what JSON does not have stays for the layer to judge."""
    if isinstance(value, dict):
        return {_json_key(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value


def _json_key(key: object) -> object:
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    return key


def _is_same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: to the layer 1 and True are not the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)


def enforce_ordering(consumer: F | None = None, slight: bool = False) -> Any:
    """Accepted for code written for Channels 1, and does nothing: a connection's messages always run in order."""
    return (lambda inner: inner) if consumer is None else consumer
