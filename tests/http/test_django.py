"""Django's own answers on a real server: pages, streams, files, static files by whitenoise, uploads, errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.http.client import Client, ask
from tests.serving import Server, serving


@pytest.fixture(scope="module")
def django() -> Iterator[Server]:
    with serving("tests.http.djangosite.site:application") as server:
        yield server


def test_page_has_its_length_and_the_session_its_cookie(django: Server) -> None:
    with Client(django) as client:
        first = client.get("/")
        assert first.body == b"visit 1"
        assert first.headers["content-length"] == "7"
        assert first.headers["x-frame-options"] == "DENY"
        cookie = first.headers["set-cookie"].partition(";")[0]
        assert client.get("/", fields=f"Cookie: {cookie}\r\n").body == b"visit 2"
        assert client.get("/", "HEAD").headers["content-length"] == "7"
        assert client.get("/nowhere/").status == 404
        assert client.get("/unchanged/").status == 304
        assert client.get("/").body == b"visit 1"


def test_streaming_response_comes_in_chunks(django: Server) -> None:
    with Client(django) as client:
        answer = client.get("/stream/")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body == b"".join(b"line %d\n" % number for number in range(1000))
        assert client.get("/").status == 200


def test_file_response_is_sent_whole(django: Server) -> None:
    with Client(django) as client:
        answer = client.get("/file/")
        assert answer.headers["content-length"] == "1048576"
        assert answer.body == bytes(range(256)) * 4096
        assert answer.headers["content-disposition"] == 'attachment; filename="file"'
        assert client.get("/").status == 200


def test_static_file_by_whitenoise(django: Server) -> None:
    content = b"body { color: black }\n" * 10_000
    with Client(django) as client:
        answer = client.get("/static/style.css")
        assert answer.body == content
        assert answer.headers["content-type"] == 'text/css; charset="utf-8"'
        part = client.get("/static/style.css", fields="Range: bytes=100-150099\r\n")
        assert part.status == 206
        assert part.body == content[100:150100]
        modified = answer.headers["last-modified"]
        assert client.get("/static/style.css", fields=f"If-Modified-Since: {modified}\r\n").status == 304
        assert client.get("/static/style.css", "HEAD").headers["content-length"] == str(len(content))


def test_upload_of_a_form(django: Server) -> None:
    content = bytes(range(256)) * 20_000
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--b--\r\n"
    )
    answer = ask(django, "/upload/", "POST", "Content-Type: multipart/form-data; boundary=b\r\n", form)
    assert json.loads(answer.body) == {"size": len(content), "digest": hashlib.sha256(content).hexdigest()}


def test_error_in_a_view_is_djangos_answer(django: Server) -> None:
    with Client(django) as client:
        answer = client.get("/fails/")
        assert answer.status == 500
        assert b"Server Error (500)" in answer.body
        # Django answered, so the connection goes on.
        assert client.get("/").status == 200


def test_wrong_host_is_refused_by_django(django: Server) -> None:
    with Client(django) as client:
        client.send("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert client.read().status == 400
