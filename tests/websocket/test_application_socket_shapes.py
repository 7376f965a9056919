"""Applications written for gevent-websocket run as they are: Flask with a middleware, Bottle, its own `Resource`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.serving import ROOT, Server, serving
from tests.websocket.sockets import open_socket

APPS = "tests.websocket.apps"


@pytest.fixture(scope="module")
def flask() -> Iterator[Server]:
    with serving(f"{APPS}.flask_app:app", cwd=ROOT) as server:
        yield server


@pytest.fixture(scope="module")
def bottle() -> Iterator[Server]:
    with serving(f"{APPS}.bottle_app:app", cwd=ROOT) as server:
        yield server


@pytest.fixture(scope="module")
def resource() -> Iterator[Server]:
    with serving(f"{APPS}.resource_app", cwd=ROOT) as server:
        yield server


def test_flask_echo_ends_without_an_error(flask: Server) -> None:
    with open_socket(flask, "/echo") as client:
        for message in ("hello", b"bytes", ""):
            client.send(message)
            assert client.recv() == message
    assert client.close_code == 1000
    assert "Traceback" not in flask.log


def test_flask_chat_has_the_session_of_the_handshake(flask: Server) -> None:
    answer = flask.ask(b"GET /login/ada HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").decode()
    cookie = answer.partition("Set-Cookie: ")[2].partition(";")[0]
    with (
        open_socket(flask, "/receive/blue") as first,
        open_socket(flask, "/receive/blue") as second,
        open_socket(flask, "/receive/red") as other,
        open_socket(flask, "/submit/blue", additional_headers={"Cookie": cookie}) as sender,
        open_socket(flask, "/submit/red") as nobody,
    ):
        sender.send("hi")
        assert first.recv() == second.recv() == "ada@/submit/blue: hi"
        nobody.send("ho")
        assert other.recv() == "nobody@/submit/red: ho"


def test_flask_refuses_what_it_does_not_know(flask: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(flask, "/nowhere").recv()
    assert refused.value.response.status_code == 404
    assert b"Not Found" in (refused.value.response.body or b"")


def test_flask_view_finds_the_socket_in_its_environ(flask: Server) -> None:
    for query, code in (("", 1000), ("?fail=1", 1011)):
        with open_socket(flask, f"/view{query}") as client:
            assert client.recv() == "from a view"
            with pytest.raises(ConnectionClosed):
                client.recv()
            assert client.close_code == code
    flask.wait_for("RuntimeError: a view's mistake")


def test_bottle_answers_messages_until_the_client_leaves(bottle: Server) -> None:
    with open_socket(bottle, "/websocket") as client:
        client.send("hello")
        assert client.recv() == "Your message was: 'hello'"
    assert "Traceback" not in bottle.log


def test_bottle_chat_reaches_all(bottle: Server) -> None:
    with open_socket(bottle, "/chat") as first:
        first.send("alone")
        assert first.recv() == "alone"
        with open_socket(bottle, "/chat") as second:
            second.send("together")
            assert first.recv() == second.recv() == "together"


@pytest.mark.parametrize(("path", "status"), [("/members-only", 403), ("/nowhere", 404)])
def test_bottle_refuses_with_its_error_page(bottle: Server, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(bottle, path).recv()
    assert refused.value.response.status_code == status
    assert b"<title>Error: " in (refused.value.response.body or b"")


def test_resource_serves_pages_and_sockets(resource: Server) -> None:
    assert resource.ask(b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"<p>a page</p>")
    with open_socket(resource, "/chat") as first:
        assert json.loads(first.recv()) == {"joined": 1}
        with open_socket(resource, "/chat") as second:
            assert json.loads(first.recv()) == json.loads(second.recv()) == {"joined": 2}
            second.send(json.dumps({"nickname": "bob"}))
            second.send(json.dumps({"text": "hi"}))
            for client in (first, second):
                assert json.loads(client.recv()) == {"by": "bob", "nickname": "bob"}
                assert json.loads(client.recv()) == {"by": "bob", "text": "hi"}
        assert json.loads(first.recv()) == {"left": True}


def test_resource_agrees_to_its_subprotocol(resource: Server) -> None:
    with open_socket(resource, "/echo", subprotocols=["whisper", "shout"]) as client:
        assert client.subprotocol == "shout"
        client.send("hello")
        assert client.recv() == "HELLO"
    with open_socket(resource, "/echo", subprotocols=["shouting"]) as client:
        assert client.subprotocol is None
    assert "Traceback" not in resource.log
