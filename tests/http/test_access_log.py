"""The access log: gunicorn's atoms, JSON lines, and nothing that a client could write into it."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.exceptions import ConfigurationError
from offload.observe.access_log import AccessLog, LogFile
from offload.settings import LogOptions
from tests.serving import serving

MIRROR = "tests.http.apps.mirror"
DEFAULT = LogOptions().access_format
ENVIRON = {
    "REQUEST_METHOD": "GET",
    "RAW_URI": "/a%20b?c=d",
    "PATH_INFO": "/a b",
    "QUERY_STRING": "c=d",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "203.0.113.9",
    "HTTP_HOST": "shop.example",
    "HTTP_REFERER": "http://other/",
    "HTTP_USER_AGENT": "test/1",
    "HTTP_X_REAL_IP": "192.0.2.1",
    "CONTENT_TYPE": "text/plain",
    "wsgi.url_scheme": "https",
}


class Answer:
    status = "200 OK"
    body_bytes = 42
    headers = [("Content-Type", "text/html"), ("X-Two", "a"), ("x-two", "b")]


def line(format: str, environ: dict[str, Any] = ENVIRON, answer: Any = None, seconds: float = 0.0) -> str:
    lines: list[str] = []
    AccessLog(format, lines.append).request(environ, None, answer or Answer(), seconds)
    assert len(lines) == 1
    assert lines[0].endswith("\n")
    return lines[0][:-1]


def basic(user: bytes) -> dict[str, str]:
    return {**ENVIRON, "HTTP_AUTHORIZATION": "Basic " + base64.b64encode(user).decode()}


# gunicorn's format.


def test_default_format_is_the_combined_log() -> None:
    stamp = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    assert re.fullmatch(
        rf'203\.0\.113\.9 - - {stamp} "GET /a%20b\?c=d HTTP/1\.1" 200 42 "http://other/" "test/1"', line(DEFAULT)
    )


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("%(h)s", "203.0.113.9"),
        ("%(l)s", "-"),
        ("%(u)s", "-"),
        ("%(r)s", "GET /a%20b?c=d HTTP/1.1"),
        ("%(m)s", "GET"),
        ('"%(U)s"', '"/a b"'),
        ("%(q)s", "c=d"),
        ("%(H)s", "HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(B)s", "42"),
        ("%(b)s", "42"),
        ("%(f)s", "http://other/"),
        ("%(a)s", "test/1"),
        ("%({x-real-ip}i)s", "192.0.2.1"),
        ("%({X-Real-IP}i)s", "192.0.2.1"),
        ("%({content-type}i)s", "text/plain"),
        ("%({content-type}o)s", "text/html"),
        ("%({x-two}o)s", "a,b"),
        ("%({wsgi.url_scheme}e)s", "https"),
        ("%({remote_addr}e)s", "203.0.113.9"),
        ("%({nothing}i)s %({nothing}o)s %({nothing}e)s %(z)s", "- - - -"),
        ("100%% %(s)6s|%(B)05d", "100%    200|00042"),
        ("ä %(m)s", "ä GET"),
    ],
)
def test_atoms_say_what_gunicorns_do(format: str, expected: str) -> None:
    assert line(format) == expected


def test_the_process_is_told_as_gunicorn_does() -> None:
    assert line("%(p)s") == f"<{os.getpid()}>"


def test_durations_are_told_in_four_units() -> None:
    seconds, millis, micros, decimal = line("%(T)s %(M)s %(D)s %(L)s", seconds=3.25).split()
    assert seconds == "3"
    assert 3250 <= int(millis) < 4000
    assert 3250000 <= int(micros) < 4000000
    assert 3.25 <= float(decimal) < 4


@pytest.mark.parametrize(
    ("header", "user"),
    [
        ("Basic " + base64.b64encode(b"ann:secret").decode(), "ann"),
        ("basic " + base64.b64encode(b"ann").decode(), "ann"),
        ("Basic " + base64.b64encode("änn:x".encode()).decode(), r"\xc3\xa4nn"),
        ("Basic " + base64.b64encode(b":x").decode(), "-"),
        ("Basic !!!", "-"),
        ("Bearer YW5uOng=", "-"),
    ],
)
def test_user_is_basic_authentications(header: str, user: str) -> None:
    assert line("%(u)s", {**ENVIRON, "HTTP_AUTHORIZATION": header}) == user


@pytest.mark.parametrize("format", ["%(h)", "%(h", "100%", "%(h)d", "%(s)y"])
def test_malformed_format_is_refused(format: str) -> None:
    with pytest.raises(ConfigurationError, match="the access log's format"):
        AccessLog(format, lambda line: None)


# Injection.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('a" 200 1 "b', r"a\" 200 1 \"b"),
        ("a\\", r"a\\"),
        ("a\tb", r"a\x09b"),
        ("a\r\n1.2.3.4 - - ", r"a\x0d\x0a1.2.3.4 - - "),
        ("a\x1b[31m\x7f\x00", r"a\x1b[31m\x7f\x00"),
        ("caf\xc3\xa9 \x85\x9b\xa0", r"caf\xc3\xa9 \x85\x9b\xa0"),
        ("\u2028\U0001f600", r"\xe2\x80\xa8\xf0\x9f\x98\x80"),
        ("%(h)s %s %d %", "%(h)s %s %d %"),
    ],
)
def test_what_a_client_says_stays_inside_its_quotation(value: str, expected: str) -> None:
    assert line('"%(a)s"', {**ENVIRON, "HTTP_USER_AGENT": value}) == f'"{expected}"'


def test_what_a_client_says_outside_of_quotations_stays_one_word() -> None:
    assert line("%(u)s %(s)s", basic(b'ann [x] "GET / HTTP/1.1" 500:')) == (
        r"ann\x20[x]\x20\"GET\x20/\x20HTTP/1.1\"\x20500 200"
    )
    assert line("%(U)s %(s)s", {**ENVIRON, "PATH_INFO": "/a b\nc"}) == r"/a\x20b\x0ac 200"


@given(
    st.dictionaries(
        st.sampled_from(["RAW_URI", "PATH_INFO", "HTTP_REFERER", "HTTP_USER_AGENT", "HTTP_X", "QUERY_STRING"]),
        st.text(alphabet=st.characters(max_codepoint=255)),
    ),
    st.binary(max_size=50),
)
def test_any_request_is_one_line_of_as_many_fields(environ: dict[str, str], user: bytes) -> None:
    written = line('%(h)s %(u)s "%(r)s" %(U)s "%(f)s" "%(a)s" "%({x}i)s" %(s)s', {**basic(user), **environ})
    assert written.isascii()
    assert written.isprintable()
    words = shlex.split(written.replace("'", "_"))
    assert len(words) == 8
    assert (words[0], words[-1]) == ("203.0.113.9", "200")


@given(st.dictionaries(st.sampled_from(["PATH_INFO", "HTTP_USER_AGENT", "HTTP_HOST"]), st.text()))
def test_any_request_is_one_json_line(environ: dict[str, str]) -> None:
    written = line("json", {**ENVIRON, **environ})
    assert written.isascii()
    assert "\n" not in written
    document = json.loads(written)
    assert document["remote_addr"] == "203.0.113.9"
    assert document["status"] == 200
    path = {**ENVIRON, **environ}["PATH_INFO"]
    assert document["path"] == path or document["path"].encode() == path.encode("latin-1")


def test_json_says_the_same_in_named_fields() -> None:
    document = json.loads(line("json", basic("änn:x".encode()), seconds=1.5))
    assert 1.5 <= document.pop("seconds") < 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", document.pop("time"))
    assert document == {
        "remote_addr": "203.0.113.9", "user": "änn", "method": "GET", "scheme": "https", "host": "shop.example",
        "path": "/a b", "query": "c=d", "protocol": "HTTP/1.1", "status": 200, "bytes": 42, "referer": "http://other/",
        "user_agent": "test/1", "pid": os.getpid(),
    }  # fmt: skip


# The file.


def test_lines_of_one_turn_are_written_together_and_follow_a_moved_file(tmp_path: Path) -> None:
    callbacks: list[Any] = []
    file = LogFile(str(tmp_path / "log"), callbacks.append)
    file.write("one\n")
    file.write("two\n")
    assert len(callbacks) == 1
    assert (tmp_path / "log").read_text() == ""
    callbacks.pop()()
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    (tmp_path / "log").rename(tmp_path / "old")
    file.write("three\n")
    file.reopen()
    file.write("four\n")
    file.flush()
    assert (tmp_path / "old").read_text() == "one\ntwo\nthree\n"
    assert (tmp_path / "log").read_text() == "four\n"


def test_file_that_takes_nothing_costs_its_lines_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    callbacks: list[Any] = []
    file = LogFile("/dev/full", callbacks.append)
    for _ in range(2):
        file.write("one\n")
        callbacks.pop()()
    assert [record.getMessage() for record in caplog.records] == [
        "the access log '/dev/full' cannot be written, 1 lines are lost: [Errno 28] No space left on device"
    ]


def test_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write the access log"):
        LogFile(str(tmp_path / "none" / "log"), print)


# A server.


def test_server_logs_answers_refusals_and_failures(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    format = '%(h)s "%(r)s" %(s)s %(b)s %({x-mirror}o)s "%(a)s" %(D)s'
    with serving(MIRROR, "--access-logfile", str(path), "--access-logformat", format) as server:
        server.ask(b'GET /size/512?a="b" HTTP/1.1\r\nHost: a\r\nUser-Agent: x" 1 "y\r\nConnection: close\r\n\r\n')
        server.ask(b"HEAD /size/512 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        server.ask(b"GET /fail HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        server.ask(b"GET / HTTP/1.1\r\n\r\n")
        contradictory = b"Host: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n"
        server.ask(b"GET / HTTP/1.1\r\n" + contradictory + b"\r\n")
        server.ask(b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n" + contradictory + b"\r\n")
    # Outside of quotations shlex takes the escapes' backslashes away.
    lines = [shlex.split(line) for line in path.read_text().splitlines()]
    assert [words[:-1] for words in lines] == [
        ["127.0.0.1", 'GET /size/512?a="b" HTTP/1.1', "200", "512", r'ax20"b"x20c', 'x" 1 "y'],
        ["127.0.0.1", "HEAD /size/512 HTTP/1.1", "200", "0", r'ax20"b"x20c', "-"],
        ["127.0.0.1", "GET /fail HTTP/1.1", "500", "0", "-", "-"],
        ["127.0.0.1", "-", "400", "0", "-", "-"],
        ["127.0.0.1", "GET / HTTP/1.1", "400", "0", "-", "-"],
        ["127.0.0.1", "GET /ws HTTP/1.1", "400", "0", "-", "-"],
    ]
    assert all(0 <= int(words[-1]) < 10_000_000 for words in lines)


def test_server_logs_the_answers_to_handshakes(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    format = '"%(r)s" %(s)s'
    upgrade = (
        b"GET %b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nOrigin: %b\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    # Routed, denied by the consumer, from another page; then the same without a route.
    asked = [
        (b"/ws", b"http://a"),
        (b"/ws/deny", b"http://a"),
        (b"/ws", b"http://b"),
        (b"/", b"http://a"),
        (b"/", b"http://b"),
    ]
    with serving(MIRROR, "--layer", "memory://", "--access-logfile", str(path), "--access-logformat", format) as server:
        for target, origin in asked:
            with server.connect() as sock:
                sock.sendall(upgrade % (target, origin))
                assert sock.recv(65536).startswith(b"HTTP/1.1 ")
    assert path.read_text().splitlines() == [
        '"GET /ws HTTP/1.1" 101',
        '"GET /ws/deny HTTP/1.1" 403',
        '"GET /ws HTTP/1.1" 403',
        '"GET / HTTP/1.1" 101',
        '"GET / HTTP/1.1" 403',
    ]


def test_server_logs_json_to_stdout() -> None:
    with serving(MIRROR, "--access-logfile", "-", "--access-logformat", "json") as server:
        server.ask(b"GET /a%0Ab HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert server.process.stdout is not None
        document = json.loads(server.process.stdout.readline())
    assert (document["path"], document["status"], document["pid"]) == ("/a\nb", 200, server.pids[0])


def test_server_processes_share_the_file_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with serving(MIRROR, "--access-logfile", str(path), "--access-logformat", "%(p)s %(U)s", workers=2) as server:
        for number in range(40):
            server.ask(b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % number)
        pids = set(server.pids)
    words = [line.split() for line in path.read_text().splitlines()]
    assert sorted(int(path[1:]) for _, path in words) == list(range(40))
    assert {int(pid[1:-1]) for pid, _ in words} <= pids


def test_server_does_not_start_with_a_malformed_format() -> None:
    with pytest.raises(AssertionError, match="the access log's format has a lone %"):
        serving(MIRROR, "--access-logfile", "-", "--access-logformat", "%(h").__enter__()
