"""Where an answer ends, whatever its application does after that: the next answer must begin there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.http.client import Client
from tests.serving import Server, serving


@pytest.fixture(scope="module")
def framing() -> Iterator[Server]:
    with serving("tests.http.apps.framing", "--layer", "memory://", "--pool-size", "4") as server:
        yield server


@pytest.mark.parametrize("framed_by", ["sized", "chunks"])
def test_start_response_with_an_empty_exc_info_cannot_frame_anew_what_has_begun(
    framing: Server, framed_by: str
) -> None:
    with Client(framing) as client:
        answer = client.get(f"/restarts?{framed_by}")
        assert (answer.status, answer.body) == (200, b"abc")
        assert client.rest() == b""
    framing.wait_for(rf"the application failed for GET /restarts\?{framed_by}\n")
    framing.wait_for("AssertionError: start_response was called again, for no error, when the answer had begun")


@pytest.mark.parametrize(("method", "status"), [("HEAD", ""), ("HEAD", "500"), ("GET", "204"), ("GET", "304")])
def test_endless_result_is_closed_where_an_answer_has_no_body(framing: Server, method: str, status: str) -> None:
    with Client(framing) as client:
        assert client.get(f"/endless?{status}", method).status == int(status or 200)
        framing.wait_for(rf"app: closed {method} {status}\.")
        assert client.get("/").text == "hello"


@pytest.mark.parametrize("framed_by", ["sized", "single", "pieces"])
def test_what_is_written_after_the_end_is_dropped_and_told_once(framing: Server, framed_by: str) -> None:
    for method in ("GET", "HEAD"):
        with Client(framing) as client:
            answer = client.get(f"/writes-late?{framed_by}", method)
            assert (answer.status, answer.body) == (200, b"abc" if method == "GET" else b"")
            assert client.get("/").text == "hello"
            assert client.buffered == b""
        said = rf"the answer to {method} /writes-late\?{framed_by} had ended when its application wrote more"
        framing.wait_for(said)
        assert len(re.findall(said, framing.log)) == 1
