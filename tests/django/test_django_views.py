"""Views that serve WebSockets, in a Django project that a real server runs."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.test import RequestFactory
from websockets.exceptions import ConnectionClosed, InvalidStatus

from django_offload.decorators import accept_websocket, require_websocket
from django_offload.middleware import WebSocketMiddleware
from tests.serving import Server, serving
from tests.websocket.sockets import open_socket

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=["with the middleware", "without it"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    env = {"DJANGO_SETTINGS_MODULE": "sockets_site.settings"}
    if request.param == "without it":
        env["WITHOUT_MIDDLEWARE"] = "1"
    with serving("sockets_site.wsgi", cwd=HERE, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def complete() -> Iterator[Server]:
    with serving("sockets_site.wsgi", cwd=HERE, env={"DJANGO_SETTINGS_MODULE": "sockets_site.settings"}) as server:
        yield server


def get(server: Server, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(server.url(path)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def refusal(server: Server, path: str, **more: object) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(server, path, **more).recv()
    return refused.value.response.status_code, refused.value.response.body or b""


def test_accept_websocket_serves_both(server: Server) -> None:
    assert get(server, "/both/ada/") == (200, "a page for ada")
    with open_socket(server, "/both/ada/?x=1") as client:
        assert client.recv() == "ada at /both/ada/?x=1 as None"
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1000


def test_view_has_the_session_of_the_handshake(server: Server) -> None:
    with urllib.request.urlopen(server.url("/log-in/")) as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    with open_socket(server, "/both/ada/", additional_headers={"Cookie": cookie}) as client:
        assert client.recv() == "ada at /both/ada/? as ada"


def test_require_websocket_refuses_plain_requests(server: Server) -> None:
    assert get(server, "/only/") == (400, "This address serves WebSockets only.")


def test_view_needs_no_handling_of_clients_that_leave(server: Server) -> None:
    with open_socket(server, "/only/") as client:
        for message in ("text", b"binary"):
            client.send(message)
            assert client.recv() == message
    with open_socket(server, "/silent/"):
        # Another one has been served since, so what the first left behind is in the log.
        pass
    assert "Traceback" not in server.log


def test_view_refuses_with_its_response(server: Server) -> None:
    assert refusal(server, "/choosy/") == (403, b"say please")
    with open_socket(server, "/choosy/?please") as client:
        assert client.recv() == "welcome"


def test_missing_view_refuses_with_404(server: Server) -> None:
    status, body = refusal(server, "/nowhere/")
    assert status == 404
    assert b"Not Found" in body


def test_view_that_returns_none_without_a_use_opens_and_closes(server: Server) -> None:
    with open_socket(server, "/silent/") as client:
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1000


def test_broken_view_closes_with_1011(server: Server) -> None:
    with open_socket(server, "/broken/") as client:
        assert client.recv() == "so far"
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1011
    server.wait_for("RuntimeError: a mistake in the view")


def test_decorators_work_on_class_based_views(server: Server) -> None:
    with open_socket(server, "/class/41/") as client:
        assert client.recv() == "42"


def test_routed_websocket_goes_to_its_consumer(server: Server) -> None:
    with open_socket(server, "/routed/") as client:
        assert client.recv() == "from a consumer"


def test_origin_is_held_against_allowed_hosts_when_the_view_accepts(server: Server) -> None:
    status, body = refusal(server, "/only/", origin="http://evil.example")
    assert (status, body) == (403, b"403 Forbidden: this Origin may not open WebSockets here\n")
    assert refusal(server, "/choosy/", origin="http://evil.example") == (403, b"say please")
    with open_socket(server, "/only/", origin="http://www.example.org") as client:
        client.send("hello")
        assert client.recv() == "hello"


def test_middleware_gives_every_view_the_websocket(complete: Server) -> None:
    assert get(complete, "/undecorated/") == (200, "a page")
    with open_socket(complete, "/undecorated/") as client:
        client.send("hello")
        assert client.recv() == "hello"
    assert client.close_code == 1000


def test_middleware_gives_none_under_another_server() -> None:
    request = RequestFactory().get("/")
    seen = []

    def view(request: HttpRequest) -> object:
        seen.append(request.websocket)  # type: ignore[attr-defined]
        return None

    WebSocketMiddleware(view)(request)  # type: ignore[arg-type]
    assert seen == [None]


@pytest.mark.parametrize("decorator", [accept_websocket, require_websocket])
def test_coroutine_functions_are_refused(decorator: object) -> None:
    async def view(request: HttpRequest) -> None: ...

    with pytest.raises(ImproperlyConfigured) as refused:
        decorator(view)  # type: ignore[operator]
    assert str(refused.value) == (
        "the view test_coroutine_functions_are_refused.<locals>.view is a coroutine function; "
        "a WebSocket view is written with plain def"
    )
