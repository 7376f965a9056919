"""One exchange: a request's run in a greenlet of the pool, and its answer.

The environ is built, the application runs, the answer is sent. What follows an answer is the connection's to say.
"""

from __future__ import annotations

import time

from offload.exceptions import TaskTimeout
from offload.http.environ import Environ, bare_environ
from offload.http.response import ClientGone, Response
from offload.http.server import ServedConnection
from offload.http.upgrade import UpgradeResponse
from offload.http.wsgi_input import BodyError
from offload.observe.log_lines import SafeLogger
from offload.protocol.http.request import HttpError, Request
from offload.protocol.websocket.handshake import may_upgrade
from offload.transport.pool import take_time

log = SafeLogger("offload.http")


def run_exchange(owner: ServedConnection, request: Request) -> None:
    """Run the application and send its answer. Whatever the application raises ends here.

    Args:
        owner: the connection's HTTP side.
        request: what is asked.
    """
    server, connection, body = owner.server, owner.connection, owner.body
    upgrade: UpgradeResponse | None = None
    if request.upgrade is not None and server.raw is not None and may_upgrade(request):
        upgrade = UpgradeResponse(connection, request, server.date, server.names, owner.may_keep)
    response = upgrade or Response(connection, request, server.date, server.names, owner.may_keep)
    if body is not None and request.expect_continue:
        body.ask_first(response.send_continue)
    began = time.perf_counter()
    environ: Environ | None = None
    refused: int | None = None
    try:
        environ = server.environ.build(owner.base, request, connection.peer, body)
        environ["wsgi.early_hints"] = response.early_hints
        if upgrade is not None and server.raw is not None:
            take_time()
            server.raw(owner, connection, request, environ, upgrade)
        result = server.application(environ, response.start_response)
        try:
            response.send_result(result)
        finally:
            kind = type(result)
            # What most return has none.
            if kind is not list and kind is not tuple and (close := getattr(result, "close", None)) is not None:
                close()
    except ClientGone:
        log.debug("%s left %s %r before its answer was whole", connection.client, request.method, request.target)
        connection.reset()
    except (BodyError, HttpError) as error:
        server.log_refusal(connection, error)
        if not response.head_sent:
            refused = error.status
        response.fail(error.status, str(error))
    except BaseException as error:
        # SystemExit and its like, too: an application that exits may not take others' requests with it.
        if upgrade is None or not upgrade.raised(error):
            # The target as it was sent: what it decodes to could forge lines of the log.
            target = request.target.decode("latin-1")
            log.error("the application failed for %s %s", request.method, target, exc_info=error)
            if isinstance(error, TaskTimeout):
                response.fail(503, "the answer took too long")
            else:
                response.fail(500, "the server failed to answer")
    finally:
        # However it ended: the greenlet goes on, and what the request left in it would meet the next one.
        if server.after_request:
            server.end_request()
    if upgrade is None or not upgrade.taken:
        known = bare_environ(request, connection.peer) if environ is None else environ
        if refused is None:
            server.observer.request(known, connection.peer, response, time.perf_counter() - began)
        else:
            server.observer.refusal(known, connection.peer, refused)
    if upgrade is None or not upgrade.finish():
        owner.answered(response, request)
