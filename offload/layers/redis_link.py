"""One connection to a Redis server: opened within a deadline, bytes out, batches of replies in.

Speaks RESP 2 through hiredis, without redis-py's connection class: that reads one reply at a time, which is the greater
part of a published message's cost, and bounds each step of a handshake by itself, so that a frozen server is
waited for several times over. Knows no commands but those of the handshake. Every failure is a ``LayerUnavailable``.

One thread may read while another writes; neither twice at a time.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import ssl
import time
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any

from offload.exceptions import ConfigurationError, LayerUnavailable
from offload.layers.redis_address import RedisAddress

try:
    import hiredis
except ModuleNotFoundError:
    raise ConfigurationError(
        "layer 'redis' needs the hiredis package; run: pip install 'django-offload[redis]'"
    ) from None

ReplyError = hiredis.ReplyError
_READ_SIZE = 64 * 1024
_INCOMPLETE = object()
UNKNOWN = "it is unknown whether the command was executed"


def pack(*command: str | bytes | int) -> bytes:
    """A command as the protocol has it."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub means any number of arguments
    return packed


def threads_are_greenlets() -> bool:
    """Whether gevent has patched this process."""
    return not isinstance(time.sleep, BuiltinFunctionType)


def give_way() -> None:
    """Let the other greenlets have their turn. Threads get theirs anyway, and would pay for the call: a sleep of no
    time takes Linux a tenth of a millisecond."""
    if threads_are_greenlets():
        time.sleep(0)


@dataclass(frozen=True)
class Tls:
    """For ``rediss://``: files in PEM; by default the system's authorities, and no certificate of our own."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_certs)
        context.check_hostname = self.check_hostname
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context


class Link:
    """An open connection.

    Args:
        connect_timeout: seconds for connecting and the handshake together.
        timeout: seconds without progress after which a write fails, and a read returns nothing.
        name: what ``CLIENT LIST`` shows.

    Raises:
        LayerUnavailable
    """

    def __init__(
        self, address: RedisAddress, connect_timeout: float, timeout: float, name: str, tls: Tls | None = None
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._reader: Any = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._buffer = bytearray(_READ_SIZE)
        deadline = time.monotonic() + connect_timeout
        try:
            self._socket = _connect(address, deadline, tls or Tls())
        except (OSError, ValueError) as error:
            raise self._unreachable(error, connect_timeout) from None
        # The same connection without the timeout, which would make peeking wait for something to peek at. With a
        # descriptor of its own: two objects that close one descriptor may close somebody else's.
        self._peephole = _socket.socket(fileno=os.dup(self._socket.fileno()))
        try:
            self._shake_hands(deadline, name)
            self._socket.settimeout(timeout)
        except OSError as error:
            self.close()
            raise self._unreachable(error, connect_timeout) from None
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise self.silent() from None
        except OSError as error:
            raise self._lost(_reason(error)) from None

    def read(self) -> list[Any]:
        """All replies that have come, at least one; waits for them. Empty when nothing came in `timeout` seconds.
        Errors among the replies are returned, as `ReplyError`."""
        replies: list[Any] = []
        reader = self._reader
        try:
            while True:
                size = self._socket.recv_into(self._buffer)
                if not size:
                    raise self._lost("connection closed")
                reader.feed(self._buffer, 0, size)
                reply = reader.gets()
                while reply is not _INCOMPLETE:
                    replies.append(reply)
                    reply = reader.gets()
                if replies:
                    return replies
        except TimeoutError:
            return replies
        except OSError as error:
            raise self._lost(_reason(error)) from None
        except hiredis.ProtocolError as error:
            raise self._lost(f"it does not speak Redis's protocol ({error})") from None

    def is_stale(self) -> bool:
        """Whether the server has closed the connection while nothing was asked. Does not wait."""
        try:
            return not self._peephole.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def silent(self) -> LayerUnavailable:
        return LayerUnavailable(
            f"layer 'redis' got no answer from {self.address.shown} within {self._timeout:g} s; {UNKNOWN}"
        )

    def interrupt(self) -> None:
        """Make whoever reads or writes fail at once; closing is left to them."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._peephole.close()
        with contextlib.suppress(OSError):
            self._socket.close()

    def drop(self) -> None:
        """In a forked child: give the descriptor back, and leave the parent's connection as it is."""
        with contextlib.suppress(OSError):
            self._peephole.close()
        with contextlib.suppress(OSError):
            os.close(self._socket.detach())

    def _shake_hands(self, deadline: float, name: str) -> None:
        """All in one round trip. The PING finds a server that lets nobody work yet."""
        address = self.address
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", name), ("PING",)]
        if address.database:
            commands.insert(0, ("SELECT", str(address.database)))
        if address.password is not None:
            user = () if address.username is None else (address.username,)
            commands.insert(0, ("AUTH", *user, address.password))
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(b"".join(pack(*command) for command in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            self._socket.settimeout(_left(deadline))
            came = self.read()
            if not came:
                raise TimeoutError
            replies += came
        for command, reply in zip(commands, replies, strict=False):
            # A user may be forbidden to name connections; all else matters.
            if isinstance(reply, ReplyError) and command[0] != "CLIENT":
                raise refused(address, reply)

    def _unreachable(self, error: Exception, waited: float) -> LayerUnavailable:
        reason = f"no answer within {waited:g} s" if isinstance(error, TimeoutError) else _reason(error)
        return LayerUnavailable(
            f"layer 'redis' cannot reach {self.address.shown}: {reason}; start Redis there, or choose another layer"
        )

    def _lost(self, reason: str) -> LayerUnavailable:
        return LayerUnavailable(f"layer 'redis' lost {self.address.shown}: {reason}; {UNKNOWN}")


def refused(address: RedisAddress, error: Exception) -> LayerUnavailable:
    """The server answered, with an error."""
    return LayerUnavailable(f"layer 'redis' was refused by {address.shown}: {str(error).rstrip('.')}")


def _connect(address: RedisAddress, deadline: float, tls: Tls) -> socket.socket:
    if address.path is not None:
        return _open(socket.AF_UNIX, address.path, deadline)
    failure: OSError | None = None
    for family, _, _, _, where in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        try:
            plain = _open(family, where, deadline)
        except OSError as error:
            failure = error
            continue
        if not address.tls:
            return plain
        try:
            return tls.context().wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise
    raise failure or OSError("the name has no address")


def _open(family: int, where: Any, deadline: float) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.settimeout(_left(deadline))
        made.connect(where)
    except BaseException:
        made.close()
        raise
    return made


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted ({error.verify_message})"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{text[:1].lower()}{text[1:]}"
