"""Requests that are answered by messages, in Django: `AsgiRequest` of a message, and views as its consumer.

Names and meanings are those of Channels 1.1. Paths that no route of ``http.request`` wants are served by the project's
WSGI application and need none of this.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

from django.core import signals
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest, get_script_name
from django.http import HttpResponse, HttpResponseBase
from django.urls import set_script_prefix

from django_offload.handshake import environ_of
from offload.consumers.message import Message
from offload.exceptions import RequestAborted, RequestTimeout, ResponseLater
from offload.interfaces import Content

__all__ = ["AsgiHandler", "AsgiRequest", "ViewConsumer"]


class AsgiRequest(WSGIRequest):
    """The request of a message on ``http.request``, or of a WebSocket's.

    Args:
        message: has at least a ``path``; its body is read to the end, also from its ``body_channel``.

    Raises:
        RequestTimeout: the body took longer than `body_receive_timeout`.
        RequestAborted: the client left before it was whole.

    Attributes:
        message: that message.
        reply_channel: where the answer goes.
    """

    ResponseLater = ResponseLater
    body_receive_timeout = 60.0

    def __init__(self, message: Message) -> None:
        self.message = message
        self.reply_channel = message.reply_channel
        body = self._whole_body(message)
        environ = environ_of(_as_ours(message.content))
        environ["REQUEST_METHOD"] = message.get("method", "GET").upper()
        if client := message.get("client"):
            environ["REMOTE_HOST"], environ["REMOTE_PORT"] = client
        environ["wsgi.input"] = io.BytesIO(body)
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if (value := environ.pop(f"HTTP_{name}", None)) is not None:
                environ[name] = value
        # What was sent in chunks has a length by now.
        environ["CONTENT_LENGTH"] = str(len(body))
        super().__init__(environ)

    def _whole_body(self, message: Message) -> bytes:
        body: bytes = message.get("body") or b""
        channel = message.get("body_channel")
        pieces = [body]
        deadline = time.monotonic() + self.body_receive_timeout
        while channel is not None:
            found = message.channel_layer.receive([channel], max(0.0, deadline - time.monotonic()))
            if found is None:
                raise RequestTimeout(f"the body did not arrive within {self.body_receive_timeout:g} s")
            piece = found[1]
            if piece.get("closed"):
                raise RequestAborted("the client left before its body was whole")
            pieces.append(piece.get("content") or b"")
            if not piece.get("more_content"):
                break
        return b"".join(pieces)


def _as_ours(content: Content) -> Content:
    """The content, where tests and other servers write text for bytes, or the other way round."""
    path, query, headers = content["path"], content.get("query_string") or b"", content.get("headers") or ()
    if isinstance(headers, dict):
        headers = headers.items()
    return {
        **content,
        "path": path.decode() if isinstance(path, bytes) else path,
        "root_path": content.get("root_path") or "",
        "query_string": query.encode() if isinstance(query, str) else query,
        "headers": [[name.encode() if isinstance(name, str) else name, value] for name, value in headers],
    }


class _Later(HttpResponse):
    """Stands for an answer that somebody else will send, on its way through the middleware."""


class AsgiHandler(BaseHandler):
    """Serves the request of a message by the project's middleware and views.

    Attributes:
        request_class: makes requests of messages.
        chunk_size: most bytes of a body in one message.
    """

    request_class = AsgiRequest
    chunk_size = 512 * 1024

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()

    def __call__(self, message: Message) -> Iterator[Content]:
        """The messages of the answer; none where a view raised `ResponseLater`, or the client has left."""
        set_script_prefix(get_script_name({"SCRIPT_NAME": message.get("root_path") or ""}))
        signals.request_started.send(sender=type(self), message=message)
        try:
            request = self.request_class(message)
        except RequestTimeout:
            response: HttpResponseBase = HttpResponse(b"408 Request Timeout (upload too slow)", status=408)
        except RequestAborted:
            return
        else:
            response = self.get_response(request)
            if isinstance(response, _Later):
                return
        try:
            yield from self.encode_response(response)
        finally:
            response.close()

    def process_exception_by_middleware(self, exception: Exception, request: Any) -> HttpResponse:
        """See Django's; a view that answers later is no failure."""
        if isinstance(exception, ResponseLater):
            return _Later()
        return super().process_exception_by_middleware(exception, request)

    @classmethod
    def encode_response(cls, response: HttpResponseBase) -> Iterator[Content]:
        """The messages that stand for a response of Django's."""
        message: Content = {
            "status": response.status_code,
            "headers": [
                *((name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()),
                *((b"Set-Cookie", morsel.OutputString().encode("latin-1")) for morsel in response.cookies.values()),
            ],
        }
        if response.streaming:
            for part in response:
                for chunk, _ in cls.chunk_bytes(part):
                    yield {**message, "content": chunk, "more_content": True}
                    message = {}
            yield {**message, "content": b"", "more_content": False}
            return
        for chunk, is_last in cls.chunk_bytes(response.content):  # type: ignore[attr-defined]
            yield {**message, "content": chunk, "more_content": not is_last}
            message = {}

    @classmethod
    def chunk_bytes(cls, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Pieces of at most `chunk_size` bytes, and whether each is the last; one for no data."""
        for start in range(0, len(data) or 1, cls.chunk_size):
            yield data[start : start + cls.chunk_size], start + cls.chunk_size >= len(data)


class ViewConsumer:
    """A consumer of ``http.request`` that answers by the project's views.

    Attributes:
        handler_class: makes the answers.
    """

    handler_class = AsgiHandler

    def __init__(self) -> None:
        self._handler: AsgiHandler | None = None

    def __call__(self, message: Message) -> None:
        """Send the answer to the message's reply channel."""
        if self._handler is None:
            # Only now: a routing is imported before the project's middleware can be.
            self._handler = self.handler_class()
        for reply in self._handler(message):
            assert message.reply_channel is not None
            message.reply_channel.send(reply)
