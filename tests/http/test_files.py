"""``wsgi.file_wrapper``: by sendfile where that gives the same bytes, by reading elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.client import Client, ask
from tests.http.conftest import APPLICATION
from tests.http.tls_client import Files, read_all, tls
from tests.serving import Server, serving

CONTENT = bytes(range(256)) * 4096


def _sent_by_kernel(server: Server) -> int:
    return int(ask(server, "/sent-by-kernel").body)


@pytest.mark.parametrize(
    ("kind", "by_kernel"),
    [("plain", True), ("unbuffered", True), ("wrapped", True), ("temporary", True), ("memory", False), ("gzip", False)],
)
def test_file_arrives_whole(server: Server, kind: str, by_kernel: bool) -> None:
    before = _sent_by_kernel(server)
    with Client(server) as client:
        answer = client.get(f"/bare/file/{kind}")
        assert answer.body == CONTENT
        assert ("content-length" in answer.headers) == by_kernel
        assert client.get("/hello").body == b"Hello, world!"
    assert _sent_by_kernel(server) - before == (len(CONTENT) if by_kernel else 0)
    server.wait_for(f"app: closed file {kind}")


def test_file_is_sent_from_where_it_stands(server: Server) -> None:
    before = _sent_by_kernel(server)
    assert ask(server, "/bare/file/plain?offset=1000").body == CONTENT[1000:]
    assert _sent_by_kernel(server) - before == len(CONTENT) - 1000


def test_file_at_its_end_is_an_empty_answer(server: Server) -> None:
    answer = ask(server, f"/bare/file/plain?offset={len(CONTENT)}")
    assert answer.headers["content-length"] == "0"


def test_file_is_sent_no_further_than_its_length(server: Server) -> None:
    """As whitenoise and others serve a range."""
    before = _sent_by_kernel(server)
    with Client(server) as client:
        assert client.get("/bare/file/plain?offset=10&length=100000").body == CONTENT[10:100010]
        assert client.get("/bare/file/plain?offset=10&length=10").body == CONTENT[10:20]
        assert client.get("/hello").body == b"Hello, world!"
    assert _sent_by_kernel(server) - before == 100000
    assert "/bare/file/plain?offset=10&length=10 has more bytes" not in server.log


def test_file_shorter_than_its_length_ends_the_connection(server: Server) -> None:
    with Client(server) as client:
        answer = client.get(f"/bare/file/plain?length={len(CONTENT) + 5}")
        assert not answer.whole
        assert answer.body == CONTENT
    server.wait_for(r"the answer to GET /bare/file/plain\?length=\d+ has 5 bytes less than its Content-Length")


def test_file_that_shrinks_meanwhile_ends_the_connection(server: Server) -> None:
    with Client(server) as client:
        answer = client.get("/bare/shrinking")
        assert answer.headers["content-length"] == "20000000"
        assert not answer.whole
    server.wait_for("the answer to GET /bare/shrinking has 10000000 bytes less than its Content-Length")


def test_small_file_leaves_with_its_head(server: Server) -> None:
    before = _sent_by_kernel(server)
    with Client(server) as client:
        answer = client.get("/bare/file/small")
        assert answer.body == b"small file"
        assert answer.headers["content-length"] == "10"
    assert _sent_by_kernel(server) == before


def test_file_without_a_size_is_read(server: Server) -> None:
    answer = ask(server, "/bare/file/proc")
    assert answer.body.startswith(b"Name:")
    assert answer.headers["transfer-encoding"] == "chunked"


def test_file_for_head_is_only_measured(server: Server) -> None:
    before = _sent_by_kernel(server)
    with Client(server) as client:
        assert client.get("/bare/file/plain", "HEAD").headers["content-length"] == str(len(CONTENT))
        assert client.get("/hello").body == b"Hello, world!"
    assert _sent_by_kernel(server) == before


def test_file_for_http_1_0_has_its_length(server: Server) -> None:
    head, _, body = server.ask(b"GET /bare/file/plain HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Length: 1048576" in head
    assert body == CONTENT


def test_client_that_leaves_in_the_middle_of_a_file_has_it_closed(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /bare/file/plain?left HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.sock.recv(10)
    server.wait_for(r"left GET b'/bare/file/plain\?left' before its answer was whole|app: closed file plain")
    assert ask(server, "/hello").status == 200


def test_file_over_tls_has_its_length_and_a_range_its_own(tmp_path: Path) -> None:
    """The kernel cannot send it there."""
    files = Files(tmp_path)
    with serving(APPLICATION, "--certfile", files.pair) as server:
        for method, query, expected in (
            ("GET", "", CONTENT),
            ("HEAD", "", CONTENT),
            ("GET", "?offset=10&length=100000", CONTENT[10:100010]),
        ):
            with tls(server, files.client()) as sock:
                target = f"/bare/file/plain{query}"
                sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                head, _, body = read_all(sock).partition(b"\r\n\r\n")
            assert f"Content-Length: {len(expected)}\r\n".encode() in head + b"\r\n"
            assert b"Transfer-Encoding" not in head
            assert body == (expected if method == "GET" else b"")
        assert "has more bytes" not in server.log
