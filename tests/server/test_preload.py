"""``--preload``: the application is imported once, and all processes are forked from that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.redis_server import until
from tests.server.children import is_running, start, wait_gone
from tests.serving import DEADLINE, ROOT, Server

APP = """
import gc, json, os, threading, time
import gevent
from offload import Group, route

VERSION = 1
print(os.getpid(), file=open("imports", "a"))
# The loop has run, and has threads of the system's.
gevent.get_hub().threadpool.apply(os.getpid)
ticks, ticked = [], threading.Event()

def tick():
    while True:
        ticks.append(os.getpid())
        ticked.set()
        time.sleep(0.01)

threading.Thread(target=tick, daemon=True).start()

def application(environ, start_response):
    ticked.clear()
    ticked.wait(20)
    body = json.dumps({
        "pid": os.getpid(), "parent": os.getppid(), "version": VERSION, "frozen": gc.get_freeze_count() > 10_000,
        "ticks": sorted(set(ticks)), "number": os.environ.get("NUMBER"),
        "pooled": gevent.get_hub().threadpool.apply(os.getpid),
    }).encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("Connection", "close")])
    return [body]

def joins(message):
    Group("all").add(message.reply_channel)
    message.reply_channel.send({"text": str(os.getpid())})

def receive(message):
    Group("all").send({"text": message["text"]})

channel_routing = [route("websocket.connect", joins), route("websocket.receive", receive)]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def get(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(server.url("/"), timeout=DEADLINE) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def offload(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is to end by itself."""
    command = [sys.executable, "-m", "offload", *arguments, "--layer", "memory://", "-b", "127.0.0.1:0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)


def children_of(server: Server) -> list[str]:
    return Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()


def template_of(server: Server, times: int = 1) -> int:
    return int(server.wait_for(r"template process (\d+) is ready", times=times)[1])


def test_processes_are_forked_from_one_import_and_are_the_supervisors_children(project: Path) -> None:
    server = start(project, "--preload", workers=2)
    try:
        template = template_of(server)
        answers = [get(server) for _ in range(40)]
        assert {answer["pid"] for answer in answers} == set(server.pids)
        assert (project / "imports").read_text() == f"{template}\n"
        for answer in answers:
            # What the import has begun goes on in each process, as if it had imported the application itself.
            assert set(answer["ticks"]) <= {template, answer["pid"]}
            assert answer["pid"] in answer["ticks"]
            assert answer["pooled"] == answer["pid"]
            assert answer["parent"] == server.process.pid
            assert answer["frozen"]
    finally:
        assert server.stop() == 0, server.log
    assert not any(map(is_running, (template, *server.pids)))
    assert "Traceback" not in server.log


@pytest.mark.parametrize("layer", ["ipc:", "memory://"])
def test_consumers_and_groups_work_in_processes_forked_from_a_template(project: Path, layer: str) -> None:
    env = {"PYTHONPATH": f"{project}:{ROOT}"}
    workers = 1 if layer == "memory://" else 2
    server = Server("shop", "--preload", "--layer", layer, workers=workers, cwd=project, env=env)
    try:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(server.url("/", "ws"))) for _ in range(8)]
            assert {int(client.recv(DEADLINE)) for client in clients} == set(server.pids)
            clients[0].send("hello")
            assert {client.recv(DEADLINE) for client in clients} == {"hello"}
    finally:
        assert server.stop() == 0, server.log


def test_a_killed_process_is_forked_anew_without_an_import_and_so_is_a_spare(project: Path) -> None:
    server = start(project, "--preload", "--spare", "1")
    try:
        (old,) = server.pids
        spare = int(server.wait_for(r"spare server process (\d+) is ready")[1])
        # Were it imported again, it would fail.
        (project / "shop.py").write_text("raise RuntimeError('broken since the last deployment')")
        os.kill(old, signal.SIGKILL)
        server.wait_for(f"server process {spare} was a spare, and takes the place")
        server.wait_for(r"spare server process (\d+) is ready", times=2)
        os.kill(spare, signal.SIGKILL)
        server.wait_for(r"server process \d+ was a spare, and takes the place", times=2)
        assert get(server)["pid"] not in (old, spare)
        assert len((project / "imports").read_text().split()) == 1
    finally:
        assert server.stop() == 0, server.log


def test_a_reload_imports_new_code_in_a_template_of_its_own(project: Path) -> None:
    server = start(project, "--preload", workers=2)
    try:
        template = template_of(server)
        (project / "shop.py").write_text(APP.replace("VERSION = 1", "VERSION = 2"))
        server.signal(signal.SIGHUP)
        server.wait_for(r"server process \d+ was replaced and ended with status 0", times=2)
        server.wait_for(rf"template process {template} was replaced and ended with status 0")
        assert get(server)["version"] == 2
        assert get(server)["pid"] in server.pids[2:]
        assert (project / "imports").read_text().split() == [str(template), str(template_of(server, 2))]
    finally:
        assert server.stop() == 0, server.log


def test_reloads_that_overtake_each_other_leave_one_template_of_the_last_code(project: Path) -> None:
    server = start(project, "--preload", workers=2)
    try:
        for version in (2, 3, 4):
            (project / "shop.py").write_text(APP.replace("VERSION = 1", f"VERSION = {version}"))
            server.signal(signal.SIGHUP)
            server.wait_for("reloading: SIGHUP", times=version - 1)
        for pid in server.pids[:2]:
            server.wait_for(f"server process {pid} was replaced and ended with status 0")
        until(lambda: len(children_of(server)) == 3, "a template and two processes")
        assert {get(server)["version"] for _ in range(20)} == {4}
    finally:
        assert server.stop() == 0, server.log


@pytest.mark.chaos("R2: a reload of broken code leaves the old processes serving")
def test_a_reload_whose_code_does_not_import_leaves_the_old_template_too(project: Path) -> None:
    server = start(project, "--preload")
    try:
        (old,) = server.pids
        (project / "shop.py").write_text("raise RuntimeError('broken since the last deployment')")
        server.signal(signal.SIGHUP)
        server.wait_for(
            r"not reloaded, the old server processes go on: \d+ importing 'shop' failed: "
            "RuntimeError: broken since the last deployment"
        )
        assert get(server)["pid"] == old
        # Not even a crash takes the broken code.
        os.kill(old, signal.SIGKILL)
        server.wait_for(r"\] server process \d+ is ready", times=2)
        assert get(server)["version"] == 1
        (project / "shop.py").write_text(APP.replace("VERSION = 1", "VERSION = 3"))
        server.signal(signal.SIGHUP)
        server.wait_for(r"\] server process \d+ was replaced and ended with status 0")
        assert get(server)["version"] == 3
    finally:
        assert server.stop() == 0, server.log


def test_a_template_that_is_killed_is_made_anew(project: Path) -> None:
    server = start(project, "--preload")
    try:
        (old,) = server.pids
        template = template_of(server)
        os.kill(template, signal.SIGKILL)
        server.wait_for(rf"\[ERROR\] template process {template} was killed by SIGKILL; starting another")
        assert template_of(server, 2) != template
        assert get(server)["pid"] == old
        os.kill(old, signal.SIGKILL)
        server.wait_for(r"\] server process \d+ is ready", times=2)
        assert get(server)["pid"] != old
    finally:
        assert server.stop() == 0, server.log


def test_a_process_that_dies_without_a_template_waits_for_the_next(project: Path) -> None:
    server = start(project, "--preload")
    try:
        (old,) = server.pids
        template = template_of(server)
        server.signal(signal.SIGSTOP)
        for pid in (template, old):
            os.kill(pid, signal.SIGKILL)
        server.signal(signal.SIGCONT)
        template_of(server, 2)
        server.wait_for(r"\] server process \d+ is ready", times=2)
        assert get(server)["pid"] != old
    finally:
        assert server.stop() == 0, server.log


def test_an_application_that_does_not_import_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import not_there\n")
    ended = offload(tmp_path, "shop", "--preload")
    assert ended.returncode == 3
    assert ended.stderr.endswith(
        "offload: error: importing 'shop' failed: ModuleNotFoundError: No module named 'not_there'\n"
    )


def test_all_processes_end_with_a_supervisor_that_is_killed(project: Path) -> None:
    server = start(project, "--preload", workers=2)
    try:
        server.process.kill()
        for pid in (template_of(server), *server.pids):
            wait_gone(pid)
    finally:
        server.stop()


HOOKS = """
import os

preload_app = True
numbers = iter(range(10))

def note(*words):
    print(*words, file=open("notes", "a"))

def on_starting(server):
    note("on_starting", os.path.exists("imports"))

def when_ready(server):
    note("when_ready", os.path.exists("imports"), len(server.LISTENERS))

def pre_fork(server, worker):
    worker.number = next(numbers)
    worker.lock = open(os.devnull)
    note("pre_fork", worker.number)

def post_fork(server, worker):
    os.environ["NUMBER"] = str(worker.number)
    note("post_fork", worker.number, worker.pid == os.getpid(), worker.ppid == server.pid == os.getppid())

def worker_exit(server, worker):
    note("worker_exit", worker.number)

def child_exit(server, worker):
    note("child_exit", worker.number)
"""


def test_hooks_are_called_in_gunicorns_order_and_processes_have_what_pre_fork_gave_the_worker(project: Path) -> None:
    (project / "gunicorn.conf.py").write_text(HOOKS)
    server = start(project)
    try:
        assert get(server)["number"] == "0"
    finally:
        assert server.stop() == 0, server.log
    assert (project / "notes").read_text().splitlines() == [
        "on_starting False",
        "when_ready True 1",
        "pre_fork 0",
        "post_fork 0 True True",
        "worker_exit 0",
        "child_exit 0",
    ]
    assert "[WARNING] worker.lock, of a hook, is not there in the process (--preload): TypeError" in server.log


def test_workers_are_forked_from_a_template_too(project: Path) -> None:
    (project / "shop.py").write_text(
        "import os\nfrom offload import route\nprint(os.getpid(), file=open('imports', 'a'))\n"
        "channel_routing = [route('jobs', lambda message: open('done', 'w').write(message['text']))]\n"
    )
    env = {"PYTHONPATH": f"{project}:{ROOT}"}
    server = Server("worker", "shop", "--preload", "--layer", "ipc:", workers=2, cwd=project, env=env)
    try:
        assert (project / "imports").read_text() == f"{template_of(server)}\n"
    finally:
        assert server.stop() == 0, server.log


def test_a_template_lets_go_of_what_each_fork_took_after_its_application_has_waited_at_import(project: Path) -> None:
    server = start(project, "--preload")
    try:
        template = template_of(server)
        before = sorted(os.listdir(f"/proc/{template}/fd"))
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for(r"\] server process \d+ is ready", times=2)
        assert sorted(os.listdir(f"/proc/{template}/fd")) == before
    finally:
        assert server.stop() == 0, server.log


def test_handlers_of_signals_that_the_import_has_set_keep_a_template_neither_from_work_nor_from_its_end(
    project: Path,
) -> None:
    (project / "shop.py").write_text(
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, print)\n" + APP
    )
    server = start(project, "--preload")
    try:
        assert get(server)["pid"] in server.pids
    finally:
        assert server.stop() == 0, server.log
    assert "is killed" not in server.log


def test_an_attribute_of_the_worker_may_have_any_size(project: Path) -> None:
    (project / "gunicorn.conf.py").write_text(
        "import os\n\ndef pre_fork(server, worker):\n    worker.large = 'x' * 500_000\n\n"
        "def post_fork(server, worker):\n    os.environ['NUMBER'] = str(len(worker.large))\n"
    )
    server = start(project, "--preload")
    try:
        assert get(server)["number"] == "500000"
    finally:
        assert server.stop() == 0, server.log


def test_a_template_that_may_not_fork_says_why(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import os, resource\n\ndef limit():\n    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
        "    if os.getuid() == 0:\n        os.setuid(65534)\n\nos.register_at_fork(after_in_child=limit)\n"
        "application = print\n"
    )
    ended = offload(tmp_path, "shop", "--preload")
    assert ended.returncode == 3
    assert ended.stderr.endswith(
        "offload: error: the server process cannot be started: Resource temporarily unavailable\n"
    )


def test_a_reload_while_the_first_template_imports_is_over_when_the_first_process_is_ready(project: Path) -> None:
    (project / "shop.py").write_text(
        "import os, signal\ntry:\n    open('begun', 'x').close()\nexcept FileExistsError:\n    pass\nelse:\n"
        f"    os.kill(os.getppid(), signal.SIGHUP)\n    os.read(os.pipe()[0], 1)\n{APP}"
    )
    server = start(project, "--preload", "--spare", "1")
    try:
        template = template_of(server)
        server.wait_for(r"spare server process \d+ is ready")
        os.kill(template, signal.SIGKILL)
        assert template_of(server, 2) != template
        # That was no reload.
        assert get(server)["pid"] == server.pids[0]
        assert "was replaced" not in server.log.partition(f"{template} is ready")[2]
    finally:
        assert server.stop() == 0, server.log


def test_a_reload_after_an_import_that_failed_begins_one_other(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(f"open('needed')\n{APP}")
    command = [sys.executable, "-m", "offload", "shop", "--preload", "--reload", "--layer", "memory://"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "-b", "127.0.0.1:0"], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        deadline = threading.Timer(DEADLINE, process.kill)
        deadline.start()
        try:
            for line in process.stderr:
                lines.append(line)
                if "waiting for a change" in line:
                    (tmp_path / "needed").touch()
                    process.send_signal(signal.SIGHUP)
                if "server process" in line and "is ready" in line:
                    break
        finally:
            process.terminate()
            process.stderr.read()
            deadline.cancel()
    assert process.returncode == 0
    assert [line for line in lines if "was replaced" in line] == []


def test_a_process_forked_after_the_log_was_moved_away_writes_into_the_new_one(project: Path) -> None:
    asked = "print('asked', os.getpid(), flush=True)\n    body = json"
    (project / "shop.py").write_text(APP.replace("body = json", asked))
    server = start(project, "--preload", "--error-logfile", "server.log", "--capture-output")
    try:
        old = get(server)["pid"]
        (project / "server.log").rename(project / "old.log")
        server.signal(signal.SIGUSR1)
        new = project / "server.log"
        until(lambda: new.exists() and f"[{old}] [INFO] statistics" in new.read_text(), "the log to be begun anew")
        os.kill(old, signal.SIGKILL)
        until(lambda: new.read_text().count("is ready") == 1, "another process")
        assert f"asked {get(server)['pid']}\n" in new.read_text()
        assert (project / "old.log").read_text().count("asked") == 1
    finally:
        assert server.stop() == 0, server.log
