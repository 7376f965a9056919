"""The requests of one HTTP connection in a greenlet of the pool, one at a time: the environ is built, the application
runs, the answer is sent.

What the connection is doing otherwise, and what follows an answer, is its handler's to say.
"""

from __future__ import annotations

import io
import logging
import time
from abc import abstractmethod
from typing import TYPE_CHECKING

from greenlet import getcurrent

from offload.http.environ import bare_environ
from offload.http.response import ClientGone, Response
from offload.http.upgrade import UpgradeResponse, may_upgrade
from offload.http.wsgi_input import BodyError, RequestBody
from offload.protocol.http.connection import HttpProtocol
from offload.protocol.http.request import HttpError, Request
from offload.protocol.http.response_head import plain_answer
from offload.transport.connection import Connection, Handler

if TYPE_CHECKING:
    from offload.http.server import Environ, HttpGateway

log = logging.getLogger("offload.http")


class RequestServer:
    """Answers the requests of one connection; its subclass is the connection's handler."""

    __slots__ = ("_base", "_body", "_connection", "_gateway", "_next_in_row", "_protocol", "_row")

    def __init__(self, gateway: HttpGateway, connection: Connection, base: Environ, protocol: HttpProtocol) -> None:
        self._gateway = gateway
        self._connection = connection
        self._base = base
        self._protocol = protocol
        # The request's that is served, if it has one.
        self._body: RequestBody | None = None
        # How many requests behind this one its greenlet may answer in the same turn; and the next one of them.
        self._row = 0
        self._next_in_row: Request | None = None

    # What the subclass decides.

    @abstractmethod
    def hand_over(self, handler: Handler) -> bytes | None:
        """Leave the connection to another handler.

        Returns:
            What arrived behind the request; None when the client is gone, or will send nothing more.
        """

    @abstractmethod
    def refuse(
        self, error: HttpError, fields: bytes = b"", environ: Environ | None = None, bodiless: bool = False
    ) -> None:
        """Answer a request that is not served, and end the connection; `environ` is for the log, if there is one."""

    @abstractmethod
    def log_own(self, status: int, environ: Environ | None) -> None:
        """Tell the access log of an answer of the server's own."""

    @abstractmethod
    def _may_keep(self) -> bool:
        """Whether another request can be served after this one, as far as one can tell now."""

    @abstractmethod
    def _answered(self, response: Response, request: Request) -> None:
        """The answer has been sent, as far as there is one."""

    # In a greenlet of the pool.

    def _serve(self, request: Request) -> None:
        """Answer a request, and some of those that came with it: a few in a row cost less than a turn for each."""
        try:
            if self._protocol.rest:
                self._serve_row(request)
            else:
                self._respond(request)
        except BaseException:
            # Our bug, or what came while a handler of the log waited: a late kill, somebody's timeout. Nobody else
            # would ever end the connection. Answers to earlier requests may have been held back.
            self._connection.flush()
            self._connection.reset()
            raise

    def _serve_row(self, request: Request) -> None:
        self._row = self._gateway.pipelined - 1
        following: Request | None = request
        me = getcurrent()
        while following is not None:
            if self._row > 0:
                # Their answers leave together; at once where an application waits for something.
                self._connection.hold_back()
            self._respond(following)
            following, self._next_in_row = self._next_in_row, None
            # Context variables are each request's own, as if it had a task of its own.
            me.gr_context = None
        self._row = 0

    def _respond(self, request: Request) -> None:
        gateway, connection, body = self._gateway, self._connection, self._body
        upgrade: UpgradeResponse | None = None
        if request.upgrade is None or gateway.sockets is None or not may_upgrade(request):
            response = Response(
                connection, request, gateway.date, gateway.names, gateway.send_timeout, self._may_keep
            )  # fmt: skip
        else:
            response = upgrade = UpgradeResponse(
                connection, request, gateway.date, gateway.names, gateway.send_timeout, self._may_keep
            )  # fmt: skip
        if body is not None and request.expect_continue:
            body.ask_first(response.send_continue)
        access = gateway.access
        began = time.perf_counter() if access is not None else 0.0
        environ: Environ | None = None
        try:
            environ = gateway.environ.build(
                self._base, request, connection.peer, io.BytesIO() if body is None else body
            )  # fmt: skip
            environ["wsgi.early_hints"] = response.early_hints
            if upgrade is not None and gateway.sockets is not None:
                gateway.sockets.offer(self, connection, request, environ, upgrade)
            result = gateway.application(environ, response.start_response)
            try:
                response.send_result(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except ClientGone:
            log.debug("%s left %s %r before its answer was whole", connection.peer, request.method, request.target)
            connection.reset()
        except (BodyError, HttpError) as error:
            log.info("%s from %s: %s", error.status, connection.peer, error)
            self._fail(response, request, error.status, str(error))
        except BaseException as error:
            # SystemExit and its like, too: an application that exits may not take others' requests with it.
            if upgrade is None or not upgrade.fail(error):
                # The target as it was sent: what it decodes to could forge lines of the log.
                target = request.target.decode("latin-1")
                log.error("the application failed for %s %s", request.method, target, exc_info=error)
                self._fail(response, request, 500, "the server failed to answer")
        finally:
            # However it ended: the greenlet goes on, and what the request left in it would meet the next one.
            if gateway.after_request:
                gateway.end_request()
        if access is not None and (upgrade is None or not upgrade.taken):
            known = bare_environ(request, connection.peer) if environ is None else environ
            access.log(known, connection.peer, response, began)
        if upgrade is None or not upgrade.finish():
            self._answered(response, request)

    def _fail(self, response: Response, request: Request, status: int, text: str) -> None:
        if response.whole:
            # For instance a result whose close() failed: the log has it, and neither client nor connection is affected.
            return
        response.keep_alive = False
        if not response.head_sent:
            date = self._gateway.date().encode("ascii")
            self._connection.write(plain_answer(status, text, date, bodiless=request.method == "HEAD"))
            response.replaced(status)
        elif not response.framed:
            # Where the connection's end is all that an answer ends with, only a reset tells that it is not whole.
            # What was held back goes first: answers to earlier requests may be among it. A framed one's client counts.
            self._connection.flush()
            self._connection.reset()
