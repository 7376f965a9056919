"""Upgrade requests: whom they are given to, and an answer that may become a WebSocket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from offload.http.environ import Environ
from offload.http.response import ExcInfo, Headers, Response
from offload.protocol.http.request import HttpError, Request
from offload.transport.connection import Connection, Handler

Refuse = Callable[[HttpError, bytes], None]
"""Answers an upgrade request with an error and further header lines, and ends the connection."""


class Upgradable(Protocol):
    """An HTTP connection with an upgrade request."""

    def hand_over(self, handler: Handler) -> bytes | None:
        """Leave the connection to another handler.

        Returns:
            What arrived behind the request; None when the client is gone, or will send nothing more.
        """

    def refuse(self, error: HttpError, fields: bytes = b"", environ: Environ | None = None) -> None:
        """Answer a request that is not served, and end the connection; `environ` is for the log, if there is one."""


class OfferedSocket(Protocol):
    """A socket that an application may take instead of answering; see `offload.websocket.raw.RawReceiver`."""

    def accept(self) -> None: ...
    def failed(self, error: BaseException) -> None: ...
    def finish(self) -> None: ...


class UpgradeResponse(Response):
    """The answer to an upgrade request: a response like others, until the application takes the socket instead.

    Attributes:
        socket: what may be taken; set by who offers it, None until then.
        taken: whether the connection is the socket's; what the application answers then is dropped.
        failed: whether it then answered with a server error, as frameworks do for an exception.
    """

    __slots__ = ("failed", "socket", "taken")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # What follows a refused handshake may well be frames, so the connection serves no other request.
        self.keep_alive = False
        self.socket: OfferedSocket | None = None
        self.taken = False
        self.failed = False

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Callable[[bytes], None]:
        if self.taken:
            self.failed = status.startswith("5")
            return self.write
        return super().start_response(status, headers, exc_info)

    def take(self) -> None:
        """The connection is the socket's from now on: nothing of an answer may stand among its frames."""
        self.taken = True
        self.seal()

    def _send(self, data: bytes, length: int | None) -> None:
        if not self.taken:
            super()._send(data, length)

    def send_result(self, result: Iterable[bytes] | None) -> None:
        # An application that serves the socket need not call `start_response`, nor return anything.
        if self.status and not self.taken:
            super().send_result(result)  # type: ignore[arg-type]
            return
        # A generator begins to run only here.
        for piece in result or ():
            if piece and not self.taken:
                self.write(piece)
        if not self.status and not self.taken and self.socket is not None:
            self.socket.accept()
        self.end()

    def raised(self, error: BaseException) -> bool:
        """The application raised. Returns whether that is the socket's matter."""
        if self.taken and self.socket is not None:
            self.socket.failed(error)
        return self.taken

    def finish(self) -> bool:
        """The application is done. Returns whether the connection is the socket's."""
        if self.socket is not None:
            self.socket.finish()
        return self.taken


TakeUpgrade = Callable[[Connection, Request, Environ, Refuse, bytes], bool]
"""Takes the connection of a routed path's request, with what came behind it; False leaves it to the application."""
OfferSocket = Callable[[Upgradable, Connection, Request, Environ, UpgradeResponse], None]
"""Puts a WebSocket into the environ of an upgrade request; the application may take it instead of answering."""
