"""Hooks of a configuration file: each is called, in its process, with what gunicorn gives it."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.server.children import begin_waiting, start, wait_gone
from tests.serving import DEADLINE, Server, read_all

APP = """
import os

def application(environ, start_response):
    body = os.environ["APP_WORKER_ID"].encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-A", "b")])
    return [body]
"""

CONFIG = """
import os

workers = 1
proc_name = "shop"

def note(name, *words):
    with open("notes", "a") as file:
        file.write(" ".join([name, str(os.getpid()), *map(str, words)]) + "\\n")

def on_starting(server):
    server._ids = set()
    note("on_starting", server.pid, server.address[0].split(":")[0])

def when_ready(server):
    note("when_ready", len(server.LISTENERS))
    server.log.info("ready, %s", server.proc_name)

def nworkers_changed(server, new_value, old_value):
    note("nworkers_changed", new_value, old_value, server.num_workers)

def pre_fork(server, worker):
    # As those do who number their processes.
    worker._worker_id = min(set(range(9)) - server._ids)
    server._ids.add(worker._worker_id)
    note("pre_fork", worker.age, worker.pid)

def post_fork(server, worker):
    os.environ["APP_WORKER_ID"] = str(worker._worker_id)
    server.log.info("worker spawned (pid: %s)", worker.pid)
    note("post_fork", worker.pid, worker.ppid, worker.booted)

def post_worker_init(worker):
    note("post_worker_init", worker.pid, worker.cfg.workers, worker.cfg.proc_name, worker.cfg.bind[0].split(":")[0])

def pre_request(worker, req):
    worker.log.debug("%s %s", req.method, req.path)
    note("pre_request", worker.pid, req.method, req.path, req.query, req.uri, req.version, dict(req.headers)["X-B"])

def post_request(worker, req, environ, resp):
    note("post_request", worker.pid, req.path, environ["REQUEST_METHOD"], resp.status, dict(resp.headers)["X-A"])

def on_reload(server):
    note("on_reload")

def worker_exit(server, worker):
    note("worker_exit", worker.pid)

def child_exit(server, worker):
    server._ids.discard(worker._worker_id)
    note("child_exit", worker.pid)

def on_exit(server):
    note("on_exit")
"""


def get(server: Server, path: str) -> bytes:
    request = urllib.request.Request(server.url(path), headers={"X-B": "c"})
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return bytes(answer.read())


def test_each_hook_is_called_in_its_process_and_order(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    server = start(tmp_path)
    try:
        (old,) = server.pids
        assert get(server, "/a?b=c") == b"0"
        server.signal(signal.SIGHUP)
        server.wait_for(f"server process {old} was replaced and ended with status 0")
        assert get(server, "/") == b"1"
        new = server.pids[1]
    finally:
        assert server.stop() == 0, server.log
    assert "Traceback" not in server.log
    assert f"worker spawned (pid: {old})" in server.log
    assert "ready, shop" in server.log
    supervisor = server.process.pid
    assert (tmp_path / "notes").read_text().splitlines() == [
        f"on_starting {supervisor} {supervisor} 127.0.0.1",
        f"when_ready {supervisor} 1",
        f"pre_fork {supervisor} 1 None",
        f"post_fork {old} {old} {supervisor} False",
        f"post_worker_init {old} {old} 1 shop 127.0.0.1",
        f"nworkers_changed {supervisor} 1 0 1",
        f"pre_request {old} {old} GET /a b=c /a?b=c (1, 1) c",
        f"post_request {old} {old} /a GET 200 OK b",
        f"on_reload {supervisor}",
        f"pre_fork {supervisor} 2 None",
        f"post_fork {new} {new} {supervisor} False",
        f"post_worker_init {new} {new} 1 shop 127.0.0.1",
        f"worker_exit {old} {old}",
        f"child_exit {supervisor} {old}",
        f"pre_request {new} {new} GET /  / (1, 1) c",
        f"post_request {new} {new} / GET 200 OK b",
        f"worker_exit {new} {new}",
        f"child_exit {supervisor} {new}",
        f"on_exit {supervisor}",
    ]


def test_hooks_of_interrupts_and_of_timeouts_are_called_in_the_process(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def application(environ, start_response):\n    while True:\n        pass\n")
    (tmp_path / "gunicorn.conf.py").write_text(
        "def worker_int(worker):\n    open('int', 'w').write(str(worker.pid))\n"
        "def worker_abort(worker):\n    open('abort', 'w').write(str(worker.pid))\n"
    )
    server = start(tmp_path, "--timeout", "3", "--blocked-after", "0.2")
    try:
        (pid,) = server.pids
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            server.wait_for(f"server process {pid}: a task has held its loop")
            os.kill(pid, signal.SIGINT)
            server.wait_for(f"server process {pid} ended with status 1; starting another")
            wait_gone(pid)
        assert (tmp_path / "abort").read_text() == str(pid)
        assert (tmp_path / "int").read_text() == str(pid)
    finally:
        assert server.stop() == 0


QUITTING_APP = """
import threading

def application(environ, start_response):
    print("begun", file=environ["wsgi.errors"], flush=True)
    threading.Event().wait(60)
"""
READING_APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    return [environ["wsgi.input"].read(1)]
"""
QUIT_HOOK = "def worker_int(worker):\n    open('int', 'w').write(str(worker.pid))\n"


@pytest.mark.parametrize("of_supervisor", [True, False])
def test_the_hook_of_interrupts_is_called_at_quit_before_the_process_ends_at_once(
    tmp_path: Path, of_supervisor: bool
) -> None:
    (tmp_path / "shop.py").write_text(QUITTING_APP)
    (tmp_path / "gunicorn.conf.py").write_text(QUIT_HOOK)
    server = start(tmp_path)
    try:
        (pid,) = server.pids
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            server.wait_for("begun")
            os.kill(server.process.pid if of_supervisor else pid, signal.SIGQUIT)
            wait_gone(pid)
        assert (tmp_path / "int").read_text() == str(pid)
        if of_supervisor:
            assert server.wait() == 0
        else:
            server.wait_for(f"server process {pid} ended with status 0; starting another")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("number", "hook"), [(signal.SIGQUIT, ""), (signal.SIGINT, ""), (signal.SIGINT, QUIT_HOOK)],
    ids=["QUIT", "INT", "INT with the hook"],
)  # fmt: skip
def test_process_that_is_told_to_stop_finishes_its_requests_and_another_takes_its_place(
    tmp_path: Path, number: int, hook: str
) -> None:
    (tmp_path / "shop.py").write_text(READING_APP)
    (tmp_path / "gunicorn.conf.py").write_text(hook)
    server = start(tmp_path)
    try:
        (pid,) = server.pids
        with server.connect() as sock:
            begin_waiting(sock)
            os.kill(pid, number)
            sock.sendall(b"x")
            assert read_all(sock).endswith(b"\r\n\r\nx")
        server.wait_for(f"server process {pid} ended with status 0; starting another")
        server.wait_for(r"server process \d+ is ready", times=2)
        assert not hook or (tmp_path / "int").read_text() == str(pid)
    finally:
        assert server.stop() == 0


def test_the_hook_of_interrupts_is_called_once_when_the_supervisor_alone_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(READING_APP)
    (tmp_path / "gunicorn.conf.py").write_text(
        "def worker_int(worker):\n    print(worker.pid, file=open('int', 'a'))\n"
    )
    server = start(tmp_path)
    try:
        with server.connect() as sock:
            begin_waiting(sock)
            server.signal(signal.SIGINT)
            server.wait_for("stopping: SIGINT")
            # What runs is finished, as at TERM.
            sock.sendall(b"x")
            assert read_all(sock).endswith(b"x")
        assert server.wait() == 0
        assert (tmp_path / "int").read_text() == f"{server.pids[0]}\n"
    finally:
        server.stop()
