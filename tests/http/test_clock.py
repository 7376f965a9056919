"""Times where the clock is set, or the loop blocked: they last as long as they are meant to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.http.client import Client
from tests.serving import DEADLINE, serving

_SHIFTED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The machine's clock is an hour behind while a file is there. */
static long shift(void)
{
    const char *path = getenv("CLOCK_SHIFT");
    return path && access(path, F_OK) == 0 ? -3600 : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int (*next)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(clock, time);
    if (clock == CLOCK_REALTIME)
        time->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *time, void *zone)
{
    int (*next)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int result = next(time, zone);
    time->tv_sec += shift();
    return result;
}
"""


@pytest.fixture
def clock(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """What goes into a server's environment, and the file that sets its clock back an hour while it is there."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("needs Linux and a C compiler, to set the clock of one process alone")
    source, library, shift = tmp_path / "shift.c", tmp_path / "shift.so", tmp_path / "set-back"
    source.write_text(_SHIFTED)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}, shift


def test_times_of_requests_hold_after_the_clock_was_set_back(clock: tuple[dict[str, str], Path]) -> None:
    env, shift = clock
    options = ("--layer", "memory://", "--header-timeout", "0.4", "--keep-alive", "0.4")
    with serving("tests.http.apps.framing", *options, env=env) as server, Client(server) as waiting:
        # One whose time has begun by the old clock, and one by the new.
        waiting.send("GET / HTTP/1.1\r\n")
        shift.touch()
        assert waiting.read().status == 408
        with Client(server) as client:
            client.send("GET / HTTP/1.1\r\n")
            assert client.read().status == 408
        with Client(server) as client:
            assert client.get("/").text == "hello"
            assert client.rest() == b""


def test_drain_goes_on_after_the_clock_was_set_back(clock: tuple[dict[str, str], Path]) -> None:
    env, shift = clock

    def code_of(client: ClientConnection) -> int | None:
        client.recv(DEADLINE)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        shift.touch()
        return client.close_code

    options = ("--layer", "memory://", "--graceful-timeout", "5")
    with (
        serving("tests.http.apps.mirror", *options, env=env) as server,
        contextlib.ExitStack() as stack,
        ThreadPoolExecutor(4) as threads,
    ):
        clients = [stack.enter_context(connect(server.url("/ws", "ws"), open_timeout=DEADLINE)) for _ in range(4)]
        codes = threads.map(code_of, clients)
        server.signal(signal.SIGTERM)
        assert list(codes) == [1001] * 4
        assert server.wait() == 0
        assert "cut off" not in server.log


def test_what_arrived_while_the_loop_was_blocked_is_not_too_late(tmp_path: Path) -> None:
    begin, end = tmp_path / "begin", tmp_path / "end"
    os.mkfifo(begin)
    os.mkfifo(end)
    # Shorter than the application holds up everything.
    options = ("--layer", "memory://", "--keep-alive", "2", "--header-timeout", "2")
    with serving("tests.http.apps.freezing", *options) as server, contextlib.ExitStack() as stack:
        # More than the loop hears of in one turn.
        clients = [stack.enter_context(Client(server)) for _ in range(100)]
        blocking = stack.enter_context(Client(server))
        idle, beginning = clients[:60], clients[60:]
        for client in idle:
            assert client.get("/").text == "hello"
        for client in beginning:
            client.send("GET / HTTP/1.1\r\n")
        blocking.send(f"GET /?{begin}&{end} HTTP/1.1\r\nHost: a\r\n\r\n")
        with begin.open("wb"):
            pass
        for client in idle:
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in beginning:
            client.send("Host: a\r\n\r\n")
        with end.open("wb"):
            pass
        for client in [blocking, *clients]:
            assert client.read().text == "hello"
        # Who says nothing is shown out as before.
        for client in clients[::20]:
            assert client.rest() == b""
