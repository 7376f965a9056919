"""The typed Protocols where two floors meet, and the plain types that cross them. No behaviour."""

from __future__ import annotations

from _thread import get_native_id
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

Content = dict[str, Any]
"""What a message carries: str keys to None, bool, int, float, str, bytes, list and dict (nested likewise)."""

DECIDES_KEY = "__decides__"
"""In a reply: the connect consumer itself says it, from another process, so that it decides over the handshake."""


class Delivery:
    """One content on its way to receivers of this process.

    Attributes:
        content: the message's content; shared by all receivers, so read-only.
        more: True when further deliveries follow at once in the same batch; a receiver may then hold its
            output back until the end of this turn of the loop, and join what it has for one socket.
        prepared: None, or what the first receiver made of the content (for instance an encoded frame), kept so
            that other receivers of the same delivery need not make it again.
        parts: several deliveries that came together for the same receivers, in order, and that this one stands for; it
            has no content of its own then. Only receivers that were attached with `joins` get such a one.
        thread: the system's number of the thread that delivers, for receivers that belong to another.
    """

    __slots__ = ("content", "more", "parts", "prepared", "thread")

    def __init__(self, content: Content, more: bool = False, parts: Sequence[Delivery] = ()) -> None:
        self.content = content
        self.more = more
        self.prepared: Any = None
        self.parts = parts
        self.thread = get_native_id()


Deliver = Callable[[Delivery], None]
"""A receiver. It is called wherever the layer reads; it must return at once and must not raise."""


class Layer(Protocol):
    """A channel layer: named queues, reply channels, groups and sessions shared between processes.

    Times are seconds as floats. All methods may be called from any thread or greenlet, and from a forked child.
    Every method that needs the layer's server raises ``LayerUnavailable`` after a bounded wait when that is gone; every
    method that takes a name of a channel or a group raises ``InvalidChannelName`` for what is none.
    """

    expiry: float
    capacity: int
    group_expiry: float

    @property
    def place(self) -> str:
        """Where what it carries is: processes whose layers have the same place meet there. Never holds a password."""

    def check(self) -> None:
        """Connect now. Raises ``LayerUnavailable`` with one clear sentence when the server cannot be reached."""

    def send(self, channel: str, content: Content, delay: float = 0.0) -> None:
        """Put a message into a channel; `delay` seconds from now, where that is not 0.

        A delayed message is kept by the layer's server, and sent on by any process that stays with it, within a second
        of its time. A channel that is full then gets it later.

        To a reply channel (a name with ``!``) whose owner is gone this does nothing.

        Raises:
            ChannelFull: a queue that is not process-specific holds ``capacity`` messages.
            MessageTooLarge, LayerUnavailable: as they say.
            TypeError: the content is not a dict of plain values.
        """

    def check_own(self, content: Content, size: int | None = None) -> None:
        """Check, and count as sent and received, a message that the caller itself hands to a channel that it has
        attached in this process: the short way to one's own client. Raises what `send` does for a content.

        Args:
            content: the message.
            size: bytes that its values have at most, where the caller knows that these are plain; None where not.
        """

    def receive(self, channels: Collection[str], timeout: float | None = None) -> tuple[str, Content] | None:
        """Take the next message of any of these channels, waiting up to `timeout` (None: for ever; 0: not at all).

        Returns:
            ``(channel, content)``, or None when nothing came in time.
        """

    def new_channel(self, prefix: str) -> str:
        """A fresh process-specific name: ``<prefix>.<process>!<random>``; with ``prefix`` ending in ``?``, a fresh
        single-reader name ``<prefix><random>``. The random part has at least 96 bits from the system's CSPRNG."""

    def attach(self, channel: str, deliver: Deliver, joins: bool = False) -> None:
        """Deliver what is sent to this process-specific channel of this process to `deliver` from now on.

        Args:
            channel: the name.
            deliver: called with each delivery.
            joins: whether it takes deliveries with `parts`.
        """

    def detach(self, channel: str) -> None:
        """Forget the channel and its place in every group. Unknown names are no error. Does not wait."""

    def renew(self, channel: str) -> None:
        """An attached channel of this process lives on: begin the time of its memberships anew. Does not wait."""

    def session_renew(self, key: str, expiry: float) -> None:
        """Keep a session, as it is, for `expiry` seconds from now; unknown keys are no error."""

    def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member; returns when the membership is in force everywhere."""

    def group_discard(self, group: str, channel: str) -> None:
        """End a membership; returns when it is in force. Not being a member is no error."""

    def group_send(self, group: str, content: Content) -> None:
        """Send to each member at most once. Full channels are passed over, and counted."""

    def session_load(self, key: str) -> Content | None:
        """The stored session, or None."""

    def session_save(self, key: str, data: Content, expiry: float) -> None:
        """Store a session for `expiry` seconds."""

    def session_delete(self, key: str) -> None:
        """Forget a session; unknown keys are no error."""

    def statistics(self) -> dict[str, int]:
        """Counters of this process since its start: ``sent``, ``received``, ``full``, ``expired``, ``lost``,
        ``unheard`` (sent to channels of processes that nobody heard: they have ended, or are away for a moment),
        ``reconnects``."""

    def flush(self) -> None:
        """Drop every message, group and session of this layer (and prefix). For tests."""

    def close(self) -> None:
        """Give back connections and threads. The layer can be used again afterwards."""


class Client(Protocol):
    """A client whose WebSocket this process holds."""

    def reply(self, content: Content) -> bool:
        """Send to the client what its own consumer sends, without a way through the layer.

        Returns:
            False where that cannot be, as in another thread; the layer is to carry it then.

        Raises:
            ValueError: the content is no reply.
            TypeError, MessageTooLarge: as for `Layer.send`.
        """


class WebSocketConsumers(Protocol):
    """The consumers of one WebSocket: bound at its handshake, asked once for each of its messages, in order.

    Attributes:
        latency: seconds from the last ping to its pong; None until there was one. The server sets it.
        client: takes what the consumers send to their client; None before the connect consumer is asked, and after
            the end. The server sets it.
    """

    latency: float | None
    client: Client | None

    @property
    def has_session(self) -> bool:
        """Whether there may be a session of the connection in the layer."""

    def renew(self) -> None:
        """The connection lives on: its session must not expire. What goes wrong is logged here."""

    def connect(self, content: Content) -> None:
        """Run the connect consumer. ``DenyConnection`` comes through and refuses the handshake; so does what else is
        raised, after it has been logged, and ``LayerUnavailable`` and ``WorkersUnavailable``, which the caller logs."""

    def receive(self, content: Content) -> None:
        """Run the receive consumer. What it raises has been logged here."""

    def disconnect(self, content: Content) -> None:
        """Run the disconnect consumer, and end what belongs to the connection. What it raises has been logged."""

    def end(self) -> None:
        """The handshake was refused, so that no disconnect follows: end what belongs to the connection."""


class HttpConsumers(Protocol):
    """The consumers of one request that is answered by messages."""

    def request(self, content: Content) -> None:
        """Run the consumer, or have a worker run it. What it raises has been logged, and comes through; so do
        ``ChannelFull``, ``LayerUnavailable`` and ``MessageTooLarge``, which the caller logs."""

    def disconnect(self, content: Content) -> None:
        """The client left before its answer was whole. What a consumer raises has been logged."""


class HttpRouting(Protocol):
    """Finds consumers for requests."""

    def bind_request(self, content: Content) -> HttpConsumers | None:
        """The consumers for a message on ``http.request``, or None when no route wants it."""


class WebSocketRouting(Protocol):
    """Finds consumers for a handshake."""

    def bind(self, content: Content) -> WebSocketConsumers | None:
        """The consumers for a connect message, or None when no route wants it."""
