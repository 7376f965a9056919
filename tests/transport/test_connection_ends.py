"""Every connection ends: what a peer does not take is given up in time, whoever closes, and every end is seen."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event

from offload.transport.connection import Connection, sending_watch
from offload.transport.timeouts import LeastRate
from tests.serving import DEADLINE

LARGE = bytes(8_000_000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection whose buffers are small; ours does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(listening.getsockname())
        ours, _ = listening.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        yield ours, theirs


def connected(ours: socket.socket, watch: LeastRate[Connection] | None = None) -> tuple[Connection, Event]:
    left = Event()
    return Connection(gevent.get_hub().loop, ours, ("127.0.0.1", 1), lambda _: left.set(), watch), left


Sockets = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize("close", [Connection.close, Connection.finish])
def test_unsent_bytes_of_a_closing_connection_have_their_time(
    pair: Sockets, close: Callable[[Connection], None], patient: bool
) -> None:
    connection, left = connected(pair[0], sending_watch(0.4, None))
    connection.patient = patient
    connection.write(LARGE)
    close(connection)
    assert left.wait(DEADLINE)
    assert connection.closed


def test_peer_that_takes_a_little_now_and_then_ends_by_the_least_rate(pair: Sockets) -> None:
    ours, theirs = pair
    connection, left = connected(ours, sending_watch(0.8, 100_000))
    connection.write(LARGE)
    connection.close()

    def trickle() -> None:
        theirs.setblocking(False)
        while not left.wait(0.1):
            try:
                theirs.recv(4000)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return

    gevent.spawn(trickle)
    assert left.wait(DEADLINE)


def test_peer_that_takes_enough_is_waited_for(pair: Sockets) -> None:
    ours, theirs = pair
    connection, left = connected(ours, sending_watch(0.4, 1000))
    size = 400_000
    connection.write(bytes(size))
    connection.close()
    theirs.setblocking(False)
    taken = 0
    while taken < size:
        left.wait(0.01)
        try:
            piece = theirs.recv(4000)
        except BlockingIOError:
            continue
        assert piece, f"the connection ended after {taken} bytes"
        taken += len(piece)
    assert left.wait(DEADLINE)


def test_patient_connection_that_is_open_is_left_to_its_handler(pair: Sockets) -> None:
    connection, left = connected(pair[0], sending_watch(0.1, None))
    connection.patient = True
    connection.write(LARGE)
    assert not left.wait(0.5)
    connection.abort()
    assert left.wait(DEADLINE)


@pytest.mark.parametrize("close", [Connection.abort, Connection.close])
def test_end_is_seen_although_a_child_of_the_application_holds_the_socket(
    pair: Sockets, close: Callable[[Connection], None]
) -> None:
    ours, theirs = pair
    held = os.dup(ours.fileno())
    try:
        connection, _ = connected(ours)
        connection.write(b"the last word")
        close(connection)
        theirs.settimeout(DEADLINE)
        assert theirs.recv(100) == b"the last word"
        assert theirs.recv(100) == b""
    finally:
        os.close(held)
