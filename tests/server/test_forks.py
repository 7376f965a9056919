"""Processes that the application forks inside a server process: they do their own work, and never serve."""

from __future__ import annotations

import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.server.children import start, wait_gone
from tests.serving import DEADLINE, ROOT, Server, serving

APP = """
import multiprocessing, os, select, signal, subprocess, sys, threading
from offload import Group, route

multiprocessing.set_start_method("fork", force=True)
done = open("done", "a", buffering=1)

def job():
    with open("begun", "w") as fifo:
        fifo.write(str(os.getpid()))
    # Waits on the loop, as whatever talks to a database does.
    answer, server = os.pipe()
    threading.Thread(target=os.write, args=(server, b"x")).start()
    select.select([answer], [], [])
    with open("go") as fifo:
        fifo.readline()
    # What a job does: a thread, a program, a lock.
    threading.Thread(target=print, args=("thread",), kwargs={"file": done}).start()
    print(subprocess.run([sys.executable, "-c", "print('program')"], stdout=subprocess.PIPE, text=True).stdout,
          file=done, end="")
    print("job", file=done)

def process():
    multiprocessing.Process(target=job).start()
    return "started"

def fork():
    pid = os.fork()
    if pid == 0:
        job()
        os._exit(0)
    return "started"

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            job()
        os._exit(0)
    return "started"

def thread():
    def run():
        if os.fork() == 0:
            job()
    threading.Thread(target=run).start()
    return "started"

def child_returns():
    pid = os.fork()
    if pid == 0:
        job()
        return "child"
    return "parent"

def program():
    seen = subprocess.run(["sh", "-c", "echo $PPID"], stdout=subprocess.PIPE, preexec_fn=os.setsid, check=True)
    try:
        subprocess.run(["/there/is/no/such"])
    except FileNotFoundError:
        return seen.stdout.decode()

def waited():
    child = multiprocessing.Process(target=os._exit, args=(7,))
    child.start()
    child.join()
    return str(child.exitcode)

def wait():
    with open("waiting", "w") as fifo:
        fifo.write("x")
    # Nobody reads it: every process that waits here would see it.
    select.select([os.open("finish", os.O_RDONLY | os.O_NONBLOCK)], [], [])
    print("waited", file=done)
    return "waited"

views = {view.__name__: view for view in (process, fork, daemon, thread, child_returns, program, waited, wait)}

def application(environ, start_response):
    body = views.get(environ["PATH_INFO"][1:], lambda: str(os.getpid()))().encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def ws_connect(message):
    Group("all").add(message.reply_channel)

def ws_receive(message):
    if message["text"] == "fork":
        if os.fork() == 0:
            message.reply_channel.send({"text": f"from {os.getpid()}"})
            os._exit(0)
        return
    Group("all").send({"text": message["text"]})

channel_routing = [route("websocket.connect", ws_connect), route("websocket.receive", ws_receive)]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "shop.py").write_text(APP)
    for name in ("begun", "go", "waiting", "finish"):
        os.mkfifo(tmp_path / name)
    running = start(tmp_path)
    try:
        yield running
    finally:
        assert running.stop() == 0, running.log
        assert "Traceback" not in running.log, running.log


def get(server: Server, path: str) -> str:
    with urllib.request.urlopen(server.url(path), timeout=DEADLINE) as answer:
        return str(answer.read().decode())


def let(project: Path, name: str) -> None:
    """Let the job "go", or the request "finish", whether or not it waits for that yet."""
    descriptor = os.open(project / name, os.O_RDWR)
    os.write(descriptor, b"\n")
    # Held open, since a pipe without ends forgets.
    _held.append(descriptor)


_held: list[int] = []


@pytest.mark.parametrize("how", ["process", "fork", "daemon", "thread", "child_returns"])
@pytest.mark.chaos("R10: a forked child never serves")
def test_a_forked_child_does_its_job_and_answers_no_request(server: Server, tmp_path: Path, how: str) -> None:
    (pid,) = server.pids
    with connect(server.url("/", "ws")) as websocket, server.connect() as idle:
        waiting = threading.Thread(target=get, args=(server, "/wait"))
        waiting.start()
        (tmp_path / "waiting").read_text()
        assert get(server, f"/{how}") in ("started", "parent")
        child = int((tmp_path / "begun").read_text())
        assert child != pid
        for _ in range(30):
            assert get(server, "/") == str(pid)
        websocket.send("during")
        assert websocket.recv(DEADLINE) == "during"
        let(tmp_path, "finish")
        waiting.join()
        let(tmp_path, "go")
        wait_gone(child)
        websocket.send("after")
        assert websocket.recv(DEADLINE) == "after"
        idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(1000).endswith(str(pid).encode())
    # The request that waited beside it ran on in its own process alone.
    assert sorted((tmp_path / "done").read_text().split()) == ["job", "program", "thread", "waited"]
    if how in ("thread", "child_returns"):
        server.wait_for("a child that the application forked came to the end of its task")


@pytest.mark.chaos("R10: a forked child never serves")
def test_a_forked_child_keeps_neither_port_nor_connections(server: Server, tmp_path: Path) -> None:
    with server.connect() as sock:
        get(server, "/fork")
        child = int((tmp_path / "begun").read_text())
        try:
            kept = [os.readlink(place) for place in Path(f"/proc/{child}/fd").iterdir()]
            assert not [name for name in kept if name.startswith("socket:")], kept
            # The job outlives the server, whose port is free at once.
            server.signal(signal.SIGTERM)
            assert server.process.wait(DEADLINE) == 0
            assert sock.recv(1) == b""
            with socket.create_server(("127.0.0.1", server.port)):
                pass
        finally:
            let(tmp_path, "go")
        wait_gone(child)


def test_what_a_forked_child_sends_to_a_client_comes_through_the_layer(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with (
        serving("shop", "--layer", "ipc:", cwd=tmp_path, env=env) as server,
        connect(server.url("/", "ws")) as websocket,
    ):
        websocket.send("fork")
        sender = str(websocket.recv(DEADLINE)).removeprefix("from ")
        assert int(sender) not in server.pids
        websocket.send("after")
        assert websocket.recv(DEADLINE) == "after"
    assert "Traceback" not in server.log


def test_a_view_runs_programs_and_waits_for_processes(server: Server) -> None:
    assert get(server, "/program") == f"{server.pids[0]}\n"
    assert get(server, "/waited") == "7"
