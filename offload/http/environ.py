"""The WSGI environ: a copy of what all requests share, and the request's own values. Follows PEP 3333 and RFC 3875."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from offload.http.file_wrapper import FileWrapper
from offload.http.wsgi_input import Body
from offload.interfaces import Content
from offload.protocol.http.forwarded import Field, Forwarders, environ_key
from offload.protocol.http.request import HttpError, Request

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

_MAX_CACHED_NAMES = 1024
"""Clients choose header names, so what is remembered of them is bounded."""


_OWN = ("REQUEST_METHOD", "RAW_URI", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "wsgi.input")


def environ_base(server: tuple[str, str], multiprocess: bool, scheme: str = "http", errors: object = None) -> Environ:
    """What every request to one listening address shares.

    Args:
        server: host and port that the server listens at; port "" for a Unix socket.
        multiprocess: whether other server processes run the same application.
        scheme: "http" or "https".
        errors: what becomes ``wsgi.errors``; None for stderr.
    """
    return {
        # The request's own, so that no copy has to grow for them.
        **dict.fromkeys(_OWN),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr if errors is None else errors,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": "offload",
        "SERVER_NAME": server[0],
        "SERVER_PORT": server[1],
        "SCRIPT_NAME": os.environ.get("SCRIPT_NAME", "").rstrip("/"),
    }


def bare_environ(request: Request, peer: object) -> Environ:
    """What the log can tell of a request for which no environ could be built."""
    return {
        "REMOTE_ADDR": peer[0] if isinstance(peer, tuple) else "",
        "REQUEST_METHOD": request.method,
        "RAW_URI": request.target.decode("latin-1"),
        "SERVER_PROTOCOL": "HTTP/" + request.version,
    }


class EnvironBuilder:
    """Builds environs; one serves a process.

    Args:
        forwarders: applies what proxies say.
    """

    def __init__(self, forwarders: Forwarders) -> None:
        self._forwarders = forwarders
        # None for the names that are not simply put into the environ.
        self._keys: dict[bytes, str | None] = {
            b"content-type": "CONTENT_TYPE",
            b"content-length": "CONTENT_LENGTH",
        }

    def build(self, base: Environ, request: Request, peer: object, body: Body | None) -> Environ:
        """The environ of one request.

        Args:
            base: from `environ_base`.
            request: the checked head.
            peer: the client's address as the socket module gives it.
            body: what becomes ``wsgi.input``, if there is one. A chunked one that is whole has a length then.

        Raises:
            HttpError: a proxy's fields contradict each other, the target has another scheme than the connection, or
                the path is outside of ``SCRIPT_NAME``.
        """
        fixed: Environ | None = request.prepared
        if fixed is None:
            fixed = request.prepared = self._fixed(base, request, peer)
        environ = fixed.copy()
        environ["REQUEST_METHOD"] = request.method
        environ["RAW_URI"] = environ["REQUEST_URI"] = request.target.decode("latin-1")
        path = request.path.decode("latin-1")
        # Looked for in a str: in bytes, Python first makes an error of what it looks for not being a number.
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        environ["QUERY_STRING"] = request.query.decode("latin-1")
        if body is None:
            environ["wsgi.input"] = io.BytesIO()
        else:
            environ["wsgi.input"] = body.open()
            if request.chunked and body.length is not None:
                # Most frameworks read as much as CONTENT_LENGTH says, and nothing without it.
                environ["CONTENT_LENGTH"] = str(body.length)
                del environ["HTTP_TRANSFER_ENCODING"]
        if environ["SCRIPT_NAME"]:
            _split_path(environ)
        return environ

    def fields(self, request: Request, environ: Environ, peer: object) -> list[list[bytes]]:
        """The request's header fields as an application may see them: as they came, without what the environ lacks.

        Args:
            request, peer: as for `build`.
            environ: what it built, whose host is the one that proxies tell.
        """
        keys, passes = self._keys, self._forwarders.passes
        address = peer[0] if isinstance(peer, tuple) else ""
        host = environ.get("HTTP_HOST", "").encode("latin-1")
        return [
            [name, host if name == b"host" else value]
            for name, value in request.headers
            if keys.get(name) is not None or passes(name, address)
        ]

    def _fixed(self, base: Environ, request: Request, peer: object) -> Environ:
        """What is the same for all requests of one connection with the same header fields."""
        environ = base.copy()
        environ["SERVER_PROTOCOL"] = "HTTP/" + request.version
        if isinstance(peer, tuple):
            environ["REMOTE_ADDR"] = peer[0]
            environ["REMOTE_PORT"] = str(peer[1])
        else:
            environ["REMOTE_ADDR"] = environ["REMOTE_PORT"] = ""
        keys = self._keys
        others: list[Field] | None = None
        for name, value in request.headers:
            key = keys[name] if name in keys else self._learn(name)
            if key is None:
                if others is None:
                    others = []
                others.append((name, value))
                continue
            text = value.decode("latin-1")
            if key in environ:
                text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
            environ[key] = text
        if request.host is not None:
            # An absolute target's authority stands above the Host field.
            environ["HTTP_HOST"] = request.host.decode("latin-1")
        if others is not None:
            self._forwarders.apply(environ, others)
        if request.scheme is not None and request.scheme != environ["wsgi.url_scheme"].encode("ascii"):
            raise HttpError(421, "the target's scheme is not this connection's")
        if not environ["SERVER_PORT"]:
            _name_server(environ)
        return environ

    def _learn(self, name: bytes) -> str | None:
        decided = self._forwarders.decides(name)
        key = None if decided else environ_key(name)
        if len(self._keys) < _MAX_CACHED_NAMES:
            self._keys[name] = key
        return key


def request_content(request: Request, environ: Environ, fields: list[list[bytes]]) -> Content:
    """What every message of a request tells of it, in the words of ASGI; `fields` are the header fields it has."""
    content: Content = {
        "path": unquote_to_bytes(request.path).decode("utf-8", "replace"),
        "scheme": environ["wsgi.url_scheme"],
        "query_string": request.query,
        "headers": fields,
        "client": [environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"] or 0)],
        "server": [environ["SERVER_NAME"], int(environ["SERVER_PORT"] or 0)],
    }
    if environ["SCRIPT_NAME"]:
        # Where in the path the application is mounted.
        content["root_path"] = environ["SCRIPT_NAME"]
    return content


def _split_path(environ: Environ) -> None:
    """Take ``SCRIPT_NAME``, where the application is mounted, off the path."""
    script, path = environ["SCRIPT_NAME"], environ["PATH_INFO"]
    rest = path[len(script) :]
    if not path.startswith(script) or rest[:1] not in ("", "/"):
        raise HttpError(404, "nothing is served outside of the path that SCRIPT_NAME names")
    environ["PATH_INFO"] = rest


def _name_server(environ: Environ) -> None:
    """At a Unix socket, which has neither name nor port, the client's word has to do: PEP 3333 wants both."""
    name, _, port = environ.get("HTTP_HOST", "").rpartition(":")
    if not port.isdigit():
        name, port = environ.get("HTTP_HOST", ""), "443" if environ["wsgi.url_scheme"] == "https" else "80"
    environ["SERVER_NAME"], environ["SERVER_PORT"] = name or "localhost", port
