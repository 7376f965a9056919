"""The hooks `pre_request` and `post_request`, as a layer around the WSGI application; there is none without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

from offload.server.hooks import Hooks, Worker

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Any]


class Request:
    """A request, as hooks see it: its line, its fields (names in capitals), and who sent it."""

    def __init__(self, environ: Environ) -> None:
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
        self.query: str = environ.get("QUERY_STRING", "")
        self.fragment = ""
        self.uri: str = environ.get("RAW_URI") or quote(self.path) + (f"?{self.query}" if self.query else "")
        major, _, minor = environ["SERVER_PROTOCOL"].partition("/")[2].partition(".")
        self.version = (int(major), int(minor or 0))
        self.scheme: str = environ["wsgi.url_scheme"]
        self.body = environ["wsgi.input"]
        self.remote_addr = self.peer_addr = (environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT", ""))
        self.headers = [(name[5:].replace("_", "-"), value) for name, value in environ.items() if name[:5] == "HTTP_"]
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(name):
                self.headers.append((name.replace("_", "-"), environ[name]))


class Response:
    """What the application has answered, as hooks see it."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.sent = 0

    @property
    def status_code(self) -> int:
        """The status as a number; 0 before there is one."""
        return int(self.status[:3] or 0)


class _Result:
    """The application's result, at whose end `post_request` is called."""

    def __init__(self, result: Iterable[bytes], response: Response, end: Callable[[], None]) -> None:
        self._result = result
        self._response = response
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._result:
            self._response.sent += len(piece)
            yield piece

    def close(self) -> None:
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            self._end()


def hooked(application: Application, hooks: Hooks, worker: Worker) -> Application:
    """The application with the hooks of the settings around it, if there are any."""
    worker.wsgi = application
    if hooks["pre_request"] is None and hooks["post_request"] is None:
        return application

    def serve(environ: Environ, start_response: Callable[..., Any]) -> Any:
        request, response = Request(environ), Response()
        worker.nr += 1

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            response.status, response.headers = status, headers
            return start_response(status, headers, *more)

        def end() -> None:
            hooks.call("post_request", worker, request, environ, response)

        hooks.call("pre_request", worker, request)
        try:
            result = application(environ, start)
        except BaseException:
            end()
            raise
        if result is None:
            # An application that has served a WebSocket.
            end()
            return None
        return _Result(result, response, end)

    return serve
