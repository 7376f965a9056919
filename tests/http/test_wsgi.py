"""PEP 3333 on a real server: what applications may do, and what they may not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.http.client import Client, ask
from tests.serving import Server, serving


def test_environ_is_a_plain_dict_with_the_names_of_cgi(server: Server) -> None:
    with Client(server) as client:
        answer = client.get(
            "/caf%C3%A9/x%2Fy;z?q=%20&r",
            fields="X-Thing: caf\xe9\r\nAccept: a\r\nAccept: b\r\nContent-Type: text/x\r\n",
        )
        mine = client.sock.getsockname()
    environ = json.loads(answer.body)
    expected = {
        "plain dict": True,
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/caf\xc3\xa9/x/y;z",
        "QUERY_STRING": "q=%20&r",
        "RAW_URI": "/caf%C3%A9/x%2Fy;z?q=%20&r",
        "REQUEST_URI": "/caf%C3%A9/x%2Fy;z?q=%20&r",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "SERVER_SOFTWARE": "offload",
        "REMOTE_ADDR": mine[0],
        "REMOTE_PORT": str(mine[1]),
        "HTTP_HOST": "test",
        "HTTP_X_THING": "caf\xe9",
        "HTTP_ACCEPT": "a,b",
        "CONTENT_TYPE": "text/x",
        "wsgi.url_scheme": "http",
        "wsgi.version": [1, 0],
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {name: environ.get(name) for name in expected} == expected
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_CONTENT_TYPE" not in environ


def test_field_with_an_underscore_does_not_pass_for_one_with_a_dash(server: Server) -> None:
    environ = json.loads(ask(server, "/echo", fields="X_Real_Ip: 10.0.0.1\r\nContent_Length: 5\r\n").body)
    assert "HTTP_X_REAL_IP" not in environ
    assert "CONTENT_LENGTH" not in environ


def test_host_of_an_absolute_target_stands_above_the_field(server: Server) -> None:
    environ = json.loads(ask(server, "http://other.example:81/p?q").body)
    assert environ["HTTP_HOST"] == "other.example:81"
    assert environ["PATH_INFO"] == "/p"
    assert environ["RAW_URI"] == "http://other.example:81/p?q"


def test_target_of_another_scheme_is_misdirected(server: Server) -> None:
    answer = ask(server, "https://test/p")
    assert answer.status == 421
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("path", "body"), [("/hello", b"Hello, world!"), ("/bare/tuple", b"tuple"), ("/bare/list", b"onetwo"),
                       ("/bare/sized", b"sized")]
)  # fmt: skip
def test_length_is_known_where_the_whole_body_is_at_hand(server: Server, path: str, body: bytes) -> None:
    with Client(server) as client:
        # The validator's wrapper hides that the list has one element.
        answer = client.get("/bare/hello" if path == "/hello" else path)
        assert answer.headers["content-length"] == str(len(body))
        assert answer.body == body
        assert "connection" not in answer.headers
        assert client.get("/bare/hello").body == b"Hello, world!"


def test_length_in_head_is_that_of_get(server: Server) -> None:
    with Client(server) as client:
        for path in ("/bare/hello", "/bare/list", "/bare/file/plain", "/bare/file/small", "/echo"):
            head, get = client.get(path, "HEAD"), client.get(path)
            assert head.body == b""
            if path != "/echo":
                assert head.headers["content-length"] == get.headers["content-length"]
            assert head.status == 200
        # Nothing but answers came: the next one is in its place.
        assert client.get("/bare/hello").body == b"Hello, world!"


def test_pieces_are_chunks_and_empty_ones_are_none(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /chunks?a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"
    server.wait_for("app: closed a")


def test_pieces_for_http_1_0_end_with_the_connection(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /chunks?b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Content-Length" not in head
    assert b"Connection: close" in head
    assert body == b"onetwothree"


def test_http_1_0_may_keep_the_connection_where_the_length_is_known(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /bare/hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = client.read()
        assert answer.headers["connection"] == "keep-alive"
        client.send("GET /bare/hello HTTP/1.0\r\n\r\n")
        assert client.read().body == b"Hello, world!"
        assert client.rest() == b""


def test_write_comes_before_what_is_returned(server: Server) -> None:
    assert ask(server, "/write").body == b"onetwothree"


def test_empty_answer_has_length_zero(server: Server) -> None:
    assert ask(server, "/lengthless-empty").headers["content-length"] == "0"


def test_head_is_held_until_the_first_byte_so_that_an_error_can_replace_it(server: Server) -> None:
    answer = ask(server, "/changes-its-mind")
    assert (answer.status, answer.body) == (503, b"sorry")
    assert "x-first" not in answer.headers
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("code", [204, 304])
def test_some_answers_have_no_content(server: Server, code: int) -> None:
    with Client(server) as client:
        for path in (f"/status?{code}", f"/wrong/content-for?{code}"):
            answer = client.get(path)
            assert answer.status == code
            assert "transfer-encoding" not in answer.headers
            assert answer.headers.get("content-length") == ("7" if code == 304 and "content" in path else None)
        assert client.get("/hello").body == b"Hello, world!"


def test_interim_status_as_an_answer_ends_the_connection(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /wrong/content-for?199 HTTP/1.1\r\nHost: a\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 199 Whatever\r\n")
    assert b"Connection: close" in head
    assert b"Content-Length" not in head
    assert body == b""


def test_body_is_cut_at_its_length(server: Server) -> None:
    with Client(server) as client:
        assert client.get("/wrong/too-long").body == b"12345"
        server.wait_for("the answer to GET /wrong/too-long has more bytes than its Content-Length; the rest is cut off")
        server.wait_for("app: closed too long")
        # The framing is whole, so the connection goes on; and nobody asked the application for what cannot be sent.
        assert client.get("/hello").body == b"Hello, world!"
    assert "asked for more than may be sent" not in server.log


def test_body_shorter_than_its_length_ends_the_connection(server: Server) -> None:
    with Client(server) as client:
        answer = client.get("/wrong/too-short")
        assert not answer.whole
        assert answer.body == b"12345"
    server.wait_for("the answer to GET /wrong/too-short has 5 bytes less than its Content-Length")


def test_hop_by_hop_fields_are_dropped_with_a_word(server: Server) -> None:
    with Client(server) as client:
        for _ in range(2):
            answer = client.get("/wrong/hop-by-hop")
            assert answer.body == b"dropped"
            assert answer.headers["x-kept"] == "yes"
            assert "keep-alive" not in answer.headers
            assert "transfer-encoding" not in answer.headers
    # Logged after the second answer at the latest, and before the next.
    ask(server, "/wrong/fails")
    server.wait_for("the application failed for GET /wrong/fails")
    assert len(re.findall("header 'keep-alive' is dropped", server.log)) == 1


def test_application_may_end_the_connection(server: Server) -> None:
    with Client(server) as client:
        answer = client.get("/wrong/closes")
        assert answer.headers["connection"] == "close"
        assert client.rest() == b""


def test_application_may_give_server_and_date(server: Server) -> None:
    answer = ask(server, "/bare/own-fields")
    assert answer.headers["server"] == "mine"
    assert answer.headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_status_without_a_reason_gets_its_space(server: Server) -> None:
    assert server.ask(b"GET /wrong/bare-status HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 \r\n")


@pytest.mark.parametrize(
    "fault",
    ["status-number", "status-word", "status-line-end", "name-empty", "name-space", "name-line-end", "name-bytes",
     "value-line-end", "value-line-feed", "value-nul", "value-bytes", "value-number", "value-wide", "length-twice",
     "length-negative", "length-wide-digit"],
)  # fmt: skip
def test_wrong_status_or_header_is_an_error_that_repeats_no_value(server: Server, fault: str) -> None:
    answer = ask(server, f"/wrong/fault?{fault}")
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    server.wait_for(rf"the application failed for GET /wrong/fault\?{fault}")
    assert "hunter2" not in server.log


@pytest.mark.parametrize("kind", ["str", "str-in-list", "none", "number"])
def test_result_that_is_not_bytes_is_an_error(server: Server, kind: str) -> None:
    assert ask(server, f"/wrong/piece-of?{kind}").status == 500


def test_result_that_turns_into_something_else_ends_the_connection(server: Server) -> None:
    answer = ask(server, "/wrong/piece-of?mixed")
    assert answer.body == b"bytes"
    assert not answer.whole
    server.wait_for("a piece of the response is a str, not bytes")


def test_start_response_twice_is_an_error(server: Server) -> None:
    assert ask(server, "/wrong/twice").status == 500
    server.wait_for("start_response was called a second time without exc_info")


@pytest.mark.parametrize("query", ["", "?data"])
def test_start_response_never_is_an_error(server: Server, query: str) -> None:
    assert ask(server, f"/wrong/never{query}").status == 500
    server.wait_for("the application sent data before it called start_response")


@pytest.mark.parametrize(("path", "text"), [("fails", "before anything"), ("fails-first", "before the first byte")])
def test_error_before_the_first_byte_is_answered(server: Server, path: str, text: str) -> None:
    answer = ask(server, f"/wrong/{path}")
    assert answer.status == 500
    assert answer.text == "500 Internal Server Error: the server failed to answer\n"
    server.wait_for(f"LookupError: {text}")
    if path == "fails-first":
        server.wait_for("app: closed fails first")


def test_error_answer_to_head_has_no_content(server: Server) -> None:
    answer = ask(server, "/wrong/fails", "HEAD")
    assert answer.status == 500


def test_error_in_the_middle_ends_the_connection(server: Server) -> None:
    with Client(server) as client:
        answer = client.get("/wrong/fails-midway")
        assert answer.body == b"half of it"
        assert not answer.whole
    server.wait_for("LookupError: in the middle")
    server.wait_for("app: closed fails midway")


def test_error_in_the_middle_resets_where_the_end_would_say_that_all_is_well(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /wrong/fails-midway HTTP/1.0\r\n\r\n")
        client.until(b"half of it")
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1000)


def test_exc_info_after_the_first_byte_raises_the_original_error(server: Server) -> None:
    with Client(server) as client:
        answer = client.get("/wrong/too-late")
        assert answer.status == 200
        assert answer.body == b"half of it"
        assert not answer.whole
    server.wait_for("the application failed for GET /wrong/too-late")
    server.wait_for("LookupError: the original error")
    server.wait_for("app: closed too late")


def test_error_in_close_is_logged(server: Server) -> None:
    answer = ask(server, "/wrong/fails-to-close")
    assert answer.body == b"whole"
    server.wait_for("RuntimeError: close failed")


def test_what_an_application_keeps_does_not_reach_into_the_next_request(server: Server) -> None:
    with Client(server) as client:
        assert client.get("/wrong/keeps", "POST", body=b"first").body == b"kept"
        answer = client.get("/wrong/strays", "POST", body=b"second")
        # What an application has kept of a body is its own, and of no other request.
        assert answer.body == b"own refused firstsecond"
        assert answer.interim == []
        assert client.get("/hello").body == b"Hello, world!"


def test_exit_of_the_application_is_its_own_affair(server: Server) -> None:
    pid = server.pids
    assert ask(server, "/wrong/exits").status == 500
    server.wait_for("SystemExit: 3")
    assert ask(server, "/hello").status == 200
    assert server.pids == pid


def test_log_of_an_error_shows_the_target_as_it_was_sent(server: Server) -> None:
    # Decoded, this would forge a line.
    ask(server, "/wrong/fault?nothing%0aFORGED")
    server.wait_for(r"the application failed for GET /wrong/fault\?nothing%0aFORGED")
    assert "\nFORGED" not in server.log


def test_early_hints_go_ahead_of_the_answer(server: Server) -> None:
    answer = ask(server, "/hints")
    assert answer.body == b"hinted"
    assert [(hint.status, hint.headers["link"]) for hint in answer.interim] == [
        (103, "</style.css>; rel=preload; as=style"),
        (103, "</a.js>; rel=preload, </b.js>; rel=preload"),
    ]
    server.wait_for("refused hint: the value of header 'Link' has a control character")


def test_early_hints_are_not_for_http_1_0(server: Server) -> None:
    raw = server.ask(b"GET /hints HTTP/1.0\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")


ENDINGS = """
from offload import configure

ended = []

def broken():
    raise SystemExit("the hook's")

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    yield str(len(ended)).encode()
    if environ["PATH_INFO"] == "/exits":
        raise SystemExit

configure(after_request=broken)
configure(after_request=lambda: ended.append("request"))
"""


def test_hooks_run_after_each_request_also_in_a_row_and_where_another_hook_fails(tmp_path: Path) -> None:
    (tmp_path / "endings.py").write_text(ENDINGS)
    with serving("endings", cwd=tmp_path) as server, Client(server) as client:
        client.send("".join(f"GET /{name} HTTP/1.1\r\nHost: test\r\n\r\n" for name in ("", "exits", "")))
        answers = [client.read("GET") for _ in range(3)]
        assert [(answer.status, answer.body) for answer in answers] == [(200, b"0"), (200, b"1"), (200, b"2")]
        server.wait_for("the hook broken failed", times=3)
