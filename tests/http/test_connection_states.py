"""The states of an HTTP connection: the table, and that no client, deadline or application leads outside of it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload.http.connection import HttpConnection
from offload.http.environ import EnvironBuilder, environ_base
from offload.http.server import HttpServer
from offload.observe.observer import Observer
from offload.protocol.http.forwarded import Forwarders, TrustedPeers
from offload.protocol.http.states import TRANSITIONS, Event, State
from offload.settings import HttpOptions
from offload.transport.connection import Connection
from offload.transport.pool import Pool

# A dot: it cannot happen there.
TABLE = """
            HEAD_BEGAN  BODY_BEGAN  REQUEST  ANSWERED  ANSWERED_EARLY  RESTED  LAST    LEAVES
IDLE        HEAD        BODY        SERVING  .         .               IDLE    ENDING  LEFT
HEAD        .           BODY        SERVING  .         .               IDLE    ENDING  LEFT
BODY        .           .           SERVING  .         .               .       ENDING  LEFT
SERVING     .           .           .        IDLE      DISCARDING      .       ENDING  LEFT
DISCARDING  .           .           .        IDLE      .               .       ENDING  LEFT
ENDING      .           .           .        .         .               .       ENDING  LEFT
LEFT        .           .           .        .         .               .       .       LEFT
"""


def test_table_has_each_state_and_each_event() -> None:
    heading, *rows = [line.split() for line in TABLE.strip().splitlines()]
    assert [Event[name] for name in heading] == list(Event)
    assert [State[row[0]] for row in rows] == list(State)
    for name, *cells in rows:
        ways = {Event[event]: State[cell] for event, cell in zip(heading, cells, strict=True) if cell != "."}
        assert TRANSITIONS[State[name]] == ways


def test_each_state_can_be_reached_and_left() -> None:
    reached, found = {State.HEAD}, True
    while found:
        found = {state for known in reached for state in TRANSITIONS[known].values()} - reached
        reached |= found
    assert reached == set(State)
    assert all(ways[Event.LEAVES] is State.LEFT for ways in TRANSITIONS.values())


def turn() -> None:
    """Let the loop turn once."""
    gevent.sleep(0)


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Reads as much as the path says, waits for a turn of the loop, and answers in the way it says."""
    _, reads, answers = environ["PATH_INFO"].split("/")
    if reads == "some":
        environ["wsgi.input"].read(3)
    elif reads == "all":
        environ["wsgi.input"].read()
    turn()
    if answers == "fails":
        raise RuntimeError("as it was told to")
    start("200 OK", [("Content-Length", "2")] if answers == "sized" else [])
    return [b"ok"] if answers == "sized" else iter((b"o", b"k"))


REQUESTS = st.builds(
    lambda head, fields, body: head + fields + b"\r\n\r\n" + body,
    st.builds(
        b"%b /%b/%b HTTP/1.%b\r\nHost: a".__mod__,
        st.tuples(
            st.sampled_from([b"GET", b"POST", b"HEAD"]),
            st.sampled_from([b"none", b"some", b"all"]),
            st.sampled_from([b"sized", b"pieces", b"fails"]),
            st.sampled_from([b"1", b"0"]),
        ),
    ),
    st.sampled_from(
        [
            b"",
            b"\r\nContent-Length: 5",
            b"\r\nContent-Length: 50",
            b"\r\nTransfer-Encoding: chunked",
            b"\r\nExpect: 100-continue\r\nContent-Length: 5",
            b"\r\nConnection: close",
            b"\r\nContent-Length: wrong",
        ]
    ),
    st.sampled_from([b"", b"hello", b"x" * 50, b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\nbroken"]),
)
EXPIRED = ["head_expired", "body_expired", "idle_expired", "rest_expired", "linger_expired"]
STEPS = st.lists(
    st.one_of(
        st.integers(1, 400),
        st.sampled_from(["turn", "half-close", "reset", "stop", *EXPIRED]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUESTS, max_size=4), STEPS)
def test_whatever_happens_the_table_is_followed(
    caplog: pytest.LogCaptureFixture, requests: list[bytes], steps: list[int | str]
) -> None:
    caplog.clear()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    left: list[bool] = []
    server = HttpServer(
        application,
        Pool(2),
        HttpOptions(body_buffer=10),
        EnvironBuilder(Forwarders(TrustedPeers([]))),
        routed=None,
        observer=Observer(),
    )
    transport = Connection(gevent.get_hub().loop, ours, ("127.0.0.1", 1), lambda _: left.append(True))
    connection = HttpConnection(server, transport, environ_base(("127.0.0.1", "1"), False))
    transport.start(connection)
    data = b"".join(requests)
    with caplog.at_level(logging.ERROR):
        for step in steps:
            with contextlib.suppress(OSError):
                if isinstance(step, int):
                    theirs.send(data[:step])
                    data = data[step:]
                elif step == "half-close":
                    theirs.shutdown(socket.SHUT_WR)
                elif step == "reset":
                    theirs.close()
                elif step == "stop":
                    server.stop()
                elif step != "turn" and _may_expire(connection.state, step):
                    getattr(connection, step)()
            turn()
            assert (connection.state is State.LEFT) == bool(left)
        theirs.close()
        turns = 0
        while not left:
            turns += 1
            assert turns < 10_000, f"the connection stays {connection.state}"
            connection_ends(connection)
            turn()
    assert connection.state is State.LEFT
    assert not server.connections
    assert not any(len(timeouts) for timeouts in (server.heads, server.idle, server.resting, server.lingering))
    assert not len(server.bodies)
    said = {record.getMessage() for record in caplog.records}
    assert all(line.startswith("the application failed for ") for line in said), said


def _may_expire(state: State, deadline: str) -> bool:
    """The deadlines of the state; a body's may also be that of one that is streamed."""
    return deadline in {
        State.HEAD: ["head_expired"],
        State.BODY: ["body_expired"],
        State.SERVING: ["body_expired"],
        State.IDLE: ["idle_expired", "rest_expired"],
        State.DISCARDING: ["idle_expired", "rest_expired"],
        State.ENDING: ["linger_expired"],
    }.get(state, [])


def connection_ends(connection: HttpConnection) -> None:
    """What the deadlines bring about in the end."""
    for deadline in EXPIRED:
        if _may_expire(connection.state, deadline):
            getattr(connection, deadline)()
