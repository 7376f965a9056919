"""Chunked bodies reach applications with a length, whatever framework reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.client import Answer, Client
from tests.http.conftest import APPLICATION
from tests.redis_server import until
from tests.serving import Server, serving

FRAMEWORKS = ["django", "flask", "bottle", "falcon", "pyramid", "cherrypy", "cgi"]
FILE = b"z" * 300_000
BOUNDARY = "of-a-test"
FORM = (
    b'--of-a-test\r\nContent-Disposition: form-data; name="name"\r\n\r\nvalue\r\n'
    b'--of-a-test\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + FILE + b"\r\n--of-a-test--\r\n"
)


@pytest.fixture(scope="module")
def frameworks() -> Iterator[Server]:
    with serving("tests.http.apps.frameworks", "--layer", "memory://") as server:
        yield server


def post(server: Server, path: str, kind: str, body: bytes, size: int = 65_000) -> Answer:
    with Client(server) as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), size):
            piece = body[at : at + size]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send("0\r\n\r\n")
        return client.read()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_sees_a_chunked_body(frameworks: Server, framework: str) -> None:
    raw = post(frameworks, f"/{framework}/raw", "application/octet-stream", FILE + b"end")
    assert (raw.status, json.loads(raw.body)) == (200, {"size": len(FILE) + 3, "end": "end"})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_sees_a_chunked_form(frameworks: Server, framework: str) -> None:
    form = post(frameworks, f"/{framework}/form", f"multipart/form-data; boundary={BOUNDARY}", FORM)
    assert (form.status, json.loads(form.body)) == (200, {"name": "value", "big.bin": len(FILE)})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_sees_a_chunked_document(frameworks: Server, framework: str) -> None:
    document = post(frameworks, f"/{framework}/json", "application/json", b'{"x": 1}', size=3)
    assert (document.status, json.loads(document.body)) == (200, {"x": 1})


def test_environ_has_the_length_and_no_coding(server: Server) -> None:
    told = json.loads(post(server, "/echo", "text/plain", b"hello", size=2).body)
    assert told["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in told
    assert told["wsgi.input_terminated"] is True
    assert told["body"] == "hello"


def test_streamed_body_has_the_coding_and_no_length() -> None:
    with serving(APPLICATION, "--limit-chunked-body", "0") as server:
        told = json.loads(post(server, "/echo", "text/plain", b"hello", size=2).body)
        assert told["HTTP_TRANSFER_ENCODING"] == "chunked"
        assert "CONTENT_LENGTH" not in told
        assert told["body"] == "hello"


def test_body_over_the_limit_is_refused() -> None:
    with serving(APPLICATION, "--limit-chunked-body", "1000", "--body-buffer", "10") as server:
        assert post(server, "/sums", "text/plain", b"x" * 1000, size=100).status == 200
        with Client(server) as client:
            client.send("POST /sums HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n")
            answer = client.read()
        assert answer.status == 413
        assert answer.text == "413 Content Too Large: the body has over 1000 bytes\n"


def test_file_of_a_large_body_is_gone_with_its_request(tmp_path: Path) -> None:
    with serving(APPLICATION, "--body-buffer", "1000", env={"TMPDIR": str(tmp_path)}) as server:
        (pid,) = server.pids

        def bodies() -> list[str]:
            # Others come and go meanwhile.
            links = [os.path.realpath(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
            return [link for link in links if link.startswith(str(tmp_path))]

        with Client(server) as client:
            for path in ("/sums", "/ignores", "/sums"):
                client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                client.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n")
                assert client.read().status == 200
        until(lambda: not bodies(), "the files of bodies to be closed")
        assert not list(tmp_path.iterdir())
