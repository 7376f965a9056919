"""Requests as messages, in Django: `AsgiRequest` of a message, and views as its consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path

from django_offload.handler import AsgiHandler, AsgiRequest, ViewConsumer
from offload import Message, channel_layers
from offload.exceptions import RequestAborted, RequestTimeout, ResponseLater


def message_of(target: str = "/", body: bytes = b"", **more: Any) -> Message:
    where, _, query = target.partition("?")
    headers = [
        [b"host", b"testserver"],
        [b"content-type", b"application/x-www-form-urlencoded"],
        [b"cookie", b"a=1; b=2"],
    ]
    content = {
        "reply_channel": "client.reply",
        "path": where,
        "query_string": query.encode(),
        "method": "POST" if body else "GET",
        "scheme": "https",
        "headers": headers,
        "client": ["192.0.2.1", 5000],
        "server": ["testserver", 443],
        "body": body,
    }
    return Message({**content, **more}, "http.request", channel_layers["default"].channel_layer)


def test_request_has_what_djangos_have() -> None:
    request = AsgiRequest(message_of("/some where/?x=1&x=2", b"name=ada"))
    assert (request.method, request.path, request.GET.getlist("x")) == ("POST", "/some where/", ["1", "2"])
    assert (request.POST["name"], request.body, request.COOKIES) == ("ada", b"name=ada", {"a": "1", "b": "2"})
    assert (request.META["REMOTE_ADDR"], request.get_host(), request.is_secure()) == ("192.0.2.1", "testserver", True)
    assert request.META["REMOTE_HOST"] == "192.0.2.1"
    assert "REMOTE_ADDR" not in AsgiRequest(message_of(client=None)).META
    assert request.reply_channel == "client.reply"


def test_request_of_a_websocket_has_its_query() -> None:
    message = Message({"path": "/test", "query_string": "key=1&key=2"}, "websocket.connect", None)  # type: ignore[arg-type]
    assert dict(AsgiRequest(message).GET) == {"key": ["1", "2"]}


def test_body_is_read_from_its_channel() -> None:
    layer = channel_layers["default"]
    message = message_of(body=b"name=", body_channel="body?1")
    layer.send("body?1", {"content": b"grace", "more_content": True})
    layer.send("body?1", {"content": b" hopper"})
    assert AsgiRequest(message).POST["name"] == "grace hopper"
    layer.send("body?1", {"closed": True})
    with pytest.raises(RequestAborted):
        AsgiRequest(message)
    with pytest.raises(RequestTimeout, match=r"^the body did not arrive within 0\.01 s$"):
        Hasty(message)


class Hasty(AsgiRequest):
    body_receive_timeout = 0.01


def hello(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(f"hello {request.GET.get('name', '')}", status=201)
    response.set_cookie("seen", "yes")
    return response


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(["one", "two"]))


def later(request: HttpRequest) -> HttpResponse:
    raise ResponseLater


urlpatterns = [path("hello", hello), path("stream", stream), path("later", later)]


@pytest.fixture
def replies() -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Asks the views, and returns what they send."""

    def ask(target: str) -> list[dict[str, Any]]:
        layer = channel_layers["default"]
        reply_channel = layer.new_channel("client?")
        ViewConsumer()(message_of(target, reply_channel=reply_channel))
        found = []
        while (received := layer.receive([reply_channel], 0)) is not None:
            found.append(received[1])
        return found

    with override_settings(ROOT_URLCONF=__name__):
        yield ask


def test_view_answers_a_message(replies: Any) -> None:
    (reply,) = replies("/hello?name=ada")
    assert (reply["status"], reply["content"], reply["more_content"]) == (201, b"hello ada", False)
    assert [b"Set-Cookie", b"seen=yes; Path=/"] in reply["headers"]


def test_streaming_view_answers_in_pieces(replies: Any) -> None:
    first, second, last = replies("/stream")
    assert (first["status"], first["content"], first["more_content"]) == (200, b"one", True)
    assert second == {"content": b"two", "more_content": True}
    assert last == {"content": b"", "more_content": False}


def test_view_may_leave_the_answer_to_others(replies: Any) -> None:
    assert replies("/later") == []


def test_missing_page_is_answered(replies: Any) -> None:
    (reply,) = replies("/nowhere")
    assert reply["status"] == 404


def test_large_response_is_several_messages() -> None:
    encoded = list(AsgiHandler.encode_response(HttpResponse(b"x" * 1_100_000)))
    assert [len(message["content"]) for message in encoded] == [524_288, 524_288, 51_424]
    assert [message["more_content"] for message in encoded] == [True, True, False]
    assert [message["content"] for message in AsgiHandler.encode_response(HttpResponse())] == [b""]
